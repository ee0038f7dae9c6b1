"""Can the model find a number hidden in a long text? The passkey test of the paper.

Text of LM-Infinite, appendix, after Mohtashami and Jaggi (arXiv 2305.16300). Prompts are built from
token ids, so their length is exact; it counts everything up to the answer.
"""

import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.retrieval import RetrievalHeads
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import UsageError
from lmi_cli.methods import LMInfinite
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.calibrate import heads_of
from lmi_cli.tasks.document import PASSAGE_TOKENS
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.evidence import Finder
from lmi_cli.tasks.keep import index_for, store_for
from lmi_cli.tasks.methodchoice import STREAM_SHARE, MemoryChoice, MethodChoice
from lmi_cli.tasks.reading import REREAD_PASSAGES
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
    """One prompt and what came of it; ``answer_s`` counts from the question, in seconds."""

    key: str
    answer: str
    correct: bool
    answer_s: float = field(compare=False)


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
        answered_from: See :class:`lmi_cli.tasks.report.Answer`.
    """

    name: str
    parameters: dict[str, int]
    bound_tokens: int | None
    answered_from: str


@dataclass(frozen=True, slots=True)
class PasskeyReport:
    """The whole grid.

    Attributes:
        cells: By length, then depth.
        methods: By length, what read it.
        tokens: Tokens read in all.
        generated: Tokens generated in all.
        cache_bytes: Keys and values behind the largest prompt.
        store_bytes: Index and store of the largest prompt.
        timing: What it took.
    """

    cells: list[Cell]
    methods: dict[int, MethodUsed]
    tokens: int
    generated: int
    cache_bytes: int
    store_bytes: int
    timing: Timing


class _Parts:
    """Ids of what is the same in every prompt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.head = [*tokenizer.prefix, *tokenizer.encode(PREFIX).ids.tolist()]
        self.filler = tokenizer.encode(FILLER).ids.tolist()
        self.question = tokenizer.encode(QUESTION).ids.tolist()


def build_prompt(tokenizer: Tokenizer, length: int, depth: float, key: str) -> Ids:
    """Ids of a prompt of exactly ``length`` tokens with ``key`` at ``depth`` percent.

    The key stands between two filler passages; what does not divide evenly is cut from the start of
    the first passage.

    Raises:
        UsageError: The length has no room for prefix, key and question.
    """
    parts = _Parts(tokenizer)
    head, filler, question = parts.head, parts.filler, parts.question
    needle = tokenizer.encode(KEY.format(key=key)).ids.tolist()
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
    memory: MemoryChoice,
    max_new_tokens: int,
    seed: int,
    chunk: int,
) -> Iterator[Progress | Note | Cell | PasskeyReport]:
    """Run the grid; each cell is yielded when it is done, the report comes last."""
    tokenizer = loaded.tokenizer
    for length in lengths:  # a length that cannot be built fails before the first is run
        build_prompt(tokenizer, length, 0, "10000")
    for warning in choice.warnings(loaded.lm.trained_length):
        yield Note(warning)
    total = sum(lengths) * len(depths) * trials
    cells: list[Cell] = []
    methods: dict[int, MethodUsed] = {}
    timing = Timing()
    done = generated = cache_bytes = store_bytes = 0
    for length in lengths:
        runner = _Runner(loaded, length, choice, memory, chunk, max_new_tokens)
        yield from runner.notes()
        for depth in depths:
            results: list[Trial] = []
            for trial in range(trials):
                key = key_for(seed, length, depth, trial)
                started = time.monotonic()
                for tokens in runner.read(depth, key):
                    yield Progress(done + tokens, total)
                done += length
                read = time.monotonic()
                timing.add_prefill(done, read - started)
                ids = runner.answer()
                generated += len(ids)
                yield Progress(done, total)
                seconds = time.monotonic() - read
                timing.add_decode(generated, seconds)
                cache_bytes = max(cache_bytes, runner.state.nbytes)
                store_bytes = max(store_bytes, runner.store_bytes)
                answer = tokenizer.decode(ids)
                found = _INTEGER.search(answer)
                right = found is not None and found[0] == key
                results.append(Trial(key, answer, right, seconds))
            cells.append(Cell(length, depth, results))
            yield cells[-1]
        methods[length] = runner.used
    yield PasskeyReport(cells, methods, done, generated, cache_bytes, store_bytes, timing)


class _Runner:
    """Reads and answers prompts of one length, as ``qa`` would read a document of that length."""

    def __init__(
        self,
        loaded: Loaded,
        length: int,
        choice: MethodChoice,
        memory: MemoryChoice,
        chunk: int,
        max_new_tokens: int,
    ) -> None:
        self._loaded, self._length, self._limit = loaded, length, max_new_tokens
        trained = loaded.lm.trained_length
        fits = length + max_new_tokens <= trained
        window = trained if fits else max(1, trained // STREAM_SHARE)
        method = choice.build(window, len(loaded.tokenizer.prefix))
        self._engine = Engine(loaded.lm, method, chunk, longest=length + max_new_tokens)
        self._memory = memory
        self._stream = not fits and isinstance(method, LMInfinite)
        self._looking: RetrievalHeads | None = None
        self._prompt = _Parts(loaded.tokenizer)
        self._question: Ids = np.array(self._prompt.question, dtype=np.int32)

    def notes(self) -> Iterator[Progress | Note]:
        """Find out which heads look things up, if that is of use."""
        if self._stream and self._memory.index:
            for event in heads_of(self._loaded, self._engine.chunk):
                if isinstance(event, RetrievalHeads):
                    self._looking = event
                else:
                    yield event

    @property
    def source(self) -> str:
        """Where answers come from; see :class:`lmi_cli.tasks.report.Answer`."""
        if not self._stream:
            return "whole"
        wanted = self._memory.answer_from
        if wanted == "auto":
            wanted = "passages" if self._looking is not None else "memory"
        if wanted == "passages" and self._looking is None:
            raise UsageError("there are no passages to answer from: no heads that look things up")
        return wanted

    @property
    def used(self) -> MethodUsed:
        """The method with its parameters."""
        method = self._engine.method
        return MethodUsed(method.name, method.parameters(), self._engine.bound(), self.source)

    def read(self, depth: float, key: str) -> Iterator[int]:
        """Read a prompt up to its question; yields the tokens read so far."""
        prompt = build_prompt(self._loaded.tokenizer, self._length, depth, key)
        self._document = prompt[: len(prompt) - len(self._question)]
        self.state = self._engine.start()
        self._index: TokenStore | None = None
        self._store: TokenStore | None = None
        pool = BlockPool(self._memory.budget_bytes)
        if self._looking is not None:
            self._index = index_for(self._loaded.lm, self._looking, 0, pool)
        if self.source == "memory":
            self._store = store_for(self._engine, 0, pool)
        kept = [store for store in (self._index, self._store) if store is not None]
        self.store_bytes = 0
        self.state.keep(*kept)
        for event in self._engine.read(self.state, [self._document]):
            yield event.tokens
        self.store_bytes = sum(store.nbytes for store in kept)

    def answer(self) -> list[int]:
        """The tokens of the answer."""
        engine, state, ids = self._engine, self.state, self._question
        if self.source == "passages" and self._index is not None and self._looking is not None:
            ids = self._reread(self._index, self._looking)
            method = MethodChoice().build(self._loaded.lm.trained_length, 0)
            longest = len(ids) + self._limit
            engine = Engine(self._loaded.lm, method, self._engine.chunk, longest=longest)
            state = engine.start()
        elif self._store is not None and isinstance(engine.method, LMInfinite):
            memory = self._memory.build(engine.method, len(engine.layers))
            state = state.fork(replace(engine.method, memory=memory), self._store)
        last = None
        for event in engine.read(state, [ids]):
            last = event.last
        if last is None:
            raise RuntimeError("an empty question")
        steps = engine.decode(
            state,
            last,
            stop_ids=self._loaded.tokenizer.stop_ids,
            limit=self._limit,
            sampling=Sampling(),
        )
        return [step.token for step in steps]

    def _reread(self, index: TokenStore, looking: RetrievalHeads) -> Ids:
        """A prompt with the best passages, each a paragraph, in the place of the whole text.

        Not in one line with the question: behind "is the pass key." the model goes on with that.
        """
        count = len(self._document)
        borders = np.append(np.arange(0, count, PASSAGE_TOKENS), count).astype(np.int64)
        tokenizer = self._loaded.tokenizer

        def tail(question: str) -> list[int]:
            # The question of the paper brings its own space along; an empty one needs one.
            ids: list[int] = tokenizer.encode(f" {question.lstrip()}").ids.tolist()
            return ids

        finder = Finder(self._engine, looking, index, borders, 0, tail)
        best = [item.passage for item in finder.rank(self.state, QUESTION)[:REREAD_PASSAGES]]
        # A key may lie across the border of two passages, so each is given half of its neighbours.
        gap = tokenizer.encode("\n\n").ids
        parts: list[Ids] = [np.array(self._prompt.head, dtype=np.int32)]
        done = len(self._prompt.head)
        half = PASSAGE_TOKENS // 2
        for passage in sorted(best, key=lambda item: item.first):
            first = passage.first - half
            if first > done:
                parts.append(gap)
            first, done = max(done, first), min(count, passage.stop + half)
            parts.append(self._document[first:done])
        parts.append(gap)
        return np.concatenate([*parts, self._question])
