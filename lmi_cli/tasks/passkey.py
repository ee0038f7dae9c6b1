"""Can the model find a number hidden in a long text? The passkey test of the paper.

Text of LM-Infinite, appendix, after Mohtashami and Jaggi (arXiv 2305.16300). Prompts are built from
token ids, so their length is exact; it counts everything up to the answer.
"""

import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import UsageError
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.methodchoice import STREAM_SHARE, MethodChoice
from lmi_cli.tasks.report import Timing
from lmi_cli.text.tokenizer import Tokenizer

PREFIX = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
FILLER = (
    " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)
KEY = " The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = " What is the pass key? The pass key is"

_INTEGER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt and what came of it."""

    key: str
    answer: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """All trials of one length and depth.

    Attributes:
        length: Tokens up to the answer.
        depth: Where the key stands, in percent of the filler; 0 is the start.
        trials: The trials.
    """

    length: int
    depth: float
    trials: list[Trial]

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(trial.correct for trial in self.trials)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / len(self.trials)


@dataclass(frozen=True, slots=True)
class MethodUsed:
    """A method and its parameters.

    Attributes:
        name: Key of ``METHODS``.
        parameters: In tokens.
        bound_tokens: Largest number of tokens any layer keeps; None grows.
    """

    name: str
    parameters: dict[str, int]
    bound_tokens: int | None


@dataclass(frozen=True, slots=True)
class PasskeyReport:
    """The whole grid.

    Attributes:
        cells: By length, then depth.
        methods: By length, what read it.
        tokens: Tokens read in all.
        generated: Tokens generated in all.
        cache_bytes: Keys and values behind the largest prompt.
        timing: What it took.
    """

    cells: list[Cell]
    methods: dict[int, MethodUsed]
    tokens: int
    generated: int
    cache_bytes: int
    timing: Timing


def build_prompt(tokenizer: Tokenizer, length: int, depth: float, key: str) -> Ids:
    """Ids of a prompt of exactly ``length`` tokens with ``key`` at ``depth`` percent.

    The key stands between two filler passages; what does not divide evenly is cut from the start of
    the first passage.

    Raises:
        UsageError: The length has no room for prefix, key and question.
    """
    head = [*tokenizer.prefix, *tokenizer.encode(PREFIX).ids.tolist()]
    filler = tokenizer.encode(FILLER).ids.tolist()
    needle = tokenizer.encode(KEY.format(key=key)).ids.tolist()
    question = tokenizer.encode(QUESTION).ids.tolist()
    room = length - len(head) - len(needle) - len(question)
    if room < 0:
        raise UsageError(
            f"length {length:,} is too short for a passkey prompt",
            hint=f"the shortest for this model is {length - room:,} tokens",
        )
    whole, rest = divmod(room, len(filler))
    before = round(whole * depth / 100)
    cut = filler[len(filler) - rest :]
    ids = [*head, *cut, *(filler * before), *needle, *(filler * (whole - before)), *question]
    return np.array(ids, dtype=np.int32)


def key_for(seed: int, length: int, depth: float, trial: int) -> str:
    """The five-digit key of a trial; the same for the same arguments on any machine."""
    return str(random.Random(f"{seed}/{length}/{depth:g}/{trial}").randint(10_000, 99_999))


def passkey(
    loaded: Loaded,
    lengths: Sequence[int],
    depths: Sequence[float],
    *,
    trials: int,
    choice: MethodChoice,
    max_new_tokens: int,
    seed: int,
    chunk: int,
) -> Iterator[Progress | Note | Cell | PasskeyReport]:
    """Run the grid; each cell is yielded when it is done, the report comes last."""
    tokenizer, lm = loaded.tokenizer, loaded.lm
    for length in lengths:  # a length that cannot be built fails before the first is run
        build_prompt(tokenizer, length, 0, "10000")
    for warning in choice.warnings(lm.trained_length):
        yield Note(warning)
    total = sum(lengths) * len(depths) * trials
    cells: list[Cell] = []
    methods: dict[int, MethodUsed] = {}
    timing = Timing()
    done = generated = cache_bytes = 0
    for length in lengths:
        fits = length + max_new_tokens <= lm.trained_length
        window = lm.trained_length if fits else max(1, lm.trained_length // STREAM_SHARE)
        method = choice.build(window, len(tokenizer.prefix))
        engine = Engine(lm, method, chunk, longest=length + max_new_tokens)
        method = engine.method
        methods[length] = MethodUsed(method.name, method.parameters(), engine.bound())
        for depth in depths:
            results: list[Trial] = []
            for trial in range(trials):
                key = key_for(seed, length, depth, trial)
                prompt = build_prompt(tokenizer, length, depth, key)
                state = engine.start()
                last = None
                started = time.monotonic()
                for event in engine.read(state, [prompt]):
                    last = event.last
                    yield Progress(done + event.tokens, total)
                if last is None:
                    raise RuntimeError("an empty prompt")
                done += length
                read = time.monotonic()
                timing.add_prefill(done, read - started)
                tokens = [
                    step.token
                    for step in engine.decode(
                        state,
                        last,
                        stop_ids=tokenizer.stop_ids,
                        limit=max_new_tokens,
                        sampling=Sampling(),
                    )
                ]
                generated += len(tokens)
                timing.add_decode(generated, time.monotonic() - read)
                cache_bytes = max(cache_bytes, state.nbytes)
                answer = tokenizer.decode(tokens)
                found = _INTEGER.search(answer)
                results.append(Trial(key, answer, found is not None and found[0] == key))
            cells.append(Cell(length, depth, results))
            yield cells[-1]
    yield PasskeyReport(cells, methods, done, generated, cache_bytes, timing)
