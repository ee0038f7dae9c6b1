"""Can the model find a number hidden in a long text? The passkey test of the paper.

Text of LM-Infinite, appendix, after Mohtashami and Jaggi (arXiv 2305.16300). Prompts are built from
token ids, so their length is exact; it counts everything up to the answer.
"""

import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.heads import RetrievalHeads
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
from lmi_cli.tasks.room import require_cache
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
    """One prompt and what came of it.

    Attributes:
        key: What was hidden.
        answer: What the model said.
        correct: Whether the first integer of the answer is the key.
        answer_s: Seconds from the question to the end of the answer.
        window_answer: What it said of the same reading from sinks and window alone; None where the
            answer came from nothing else.
        window_correct: Whether that was right.
    """

    key: str
    answer: str
    correct: bool
    answer_s: float = field(compare=False)
    window_answer: str | None = None
    window_correct: bool | None = None


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

    @property
    def window_correct(self) -> int | None:
        """Number of right answers from the window alone; None where there were none to compare."""
        compared = [trial.window_correct for trial in self.trials]
        return None if None in compared else sum(map(bool, compared))


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
        tokens: Tokens of all prompts.
        read: Tokens read for them: what prompts begin with alike is read once.
        generated: Tokens generated in all.
        cache_bytes: Keys and values behind the largest prompt.
        store_bytes: Index and store of the largest prompt.
        timing: What it took.
    """

    cells: list[Cell]
    methods: dict[int, MethodUsed]
    tokens: int
    read: int
    generated: int
    cache_bytes: int
    store_bytes: int
    timing: Timing


class Prompt(NamedTuple):
    """Ids of a prompt of the test.

    Attributes:
        document: Up to the question.
        question: The rest.
        blank: The document as it would be if nothing were hidden in it.
        head_tokens: Tokens in front of the filler.
    """

    document: Ids
    question: Ids
    blank: Ids
    head_tokens: int


def build_prompt(tokenizer: Tokenizer, length: int, depth: float, key: str) -> Prompt:
    """A prompt of exactly ``length`` tokens with ``key`` at ``depth`` percent.

    The key stands between two filler passages; what does not divide evenly is cut from the start of
    the first passage.

    Raises:
        UsageError: The length has no room for prefix, key and question.
    """
    head = [*tokenizer.prefix, *tokenizer.encode(PREFIX).ids.tolist()]
    filler, needle, question = (
        tokenizer.encode(text).ids.tolist() for text in (FILLER, KEY.format(key=key), QUESTION)
    )
    room = length - len(head) - len(needle) - len(question)
    if room < 0:
        raise UsageError(
            f"length {length:,} is too short for a passkey prompt",
            hint=f"the shortest for this model is {length - room:,} tokens",
        )
    whole, rest = divmod(room, len(filler))
    blank = np.array([*head, *filler[len(filler) - rest :], *(filler * whole)], dtype=np.int32)
    at = len(head) + rest + round(whole * depth / 100) * len(filler)
    document = np.insert(blank, at, needle)
    return Prompt(document, np.array(question, dtype=np.int32), blank, len(head))


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
    done = read = generated = cache_bytes = store_bytes = 0
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
                read += runner.read_tokens
                asked = time.monotonic()
                timing.add_prefill(read, asked - started)
                ids = runner.answer(runner.source)
                generated += len(ids)
                yield Progress(done, total)
                seconds = time.monotonic() - asked
                timing.add_decode(generated, seconds)
                cache_bytes = max(cache_bytes, runner.state.nbytes)
                store_bytes = max(store_bytes, runner.store_bytes)
                result = Trial(key, *_judged(tokenizer, ids, key), seconds)
                if runner.source not in ("whole", "window"):
                    alone = _judged(tokenizer, runner.answer("window"), key)
                    result = replace(result, window_answer=alone[0], window_correct=alone[1])
                results.append(result)
            cells.append(Cell(length, depth, results))
            yield cells[-1]
        methods[length] = runner.used
    yield PasskeyReport(cells, methods, done, read, generated, cache_bytes, store_bytes, timing)


def _judged(tokenizer: Tokenizer, ids: list[int], key: str) -> tuple[str, bool]:
    """An answer, and whether its first integer is the key."""
    answer = tokenizer.decode(ids)
    found = _INTEGER.search(answer)
    return answer, found is not None and found[0] == key


class _Begun(NamedTuple):
    """What prompts begin with alike, as far as it has been read."""

    ids: Ids
    state: StreamState
    kept: dict[str, TokenStore]


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
        require_cache(loaded, self._engine, length + max_new_tokens)
        self._memory = memory
        self._stream = not fits and isinstance(method, LMInfinite)
        self._looking: RetrievalHeads | None = None
        self._begun: _Begun | None = None

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
        """Read a prompt up to its question; yields the tokens of it that have been read.

        What prompts begin with alike, up to their keys, is read once. They are gone on with from
        the end of a chunk, so each is read in the very chunks in which it would be read alone.
        """
        self.prompt = build_prompt(self._loaded.tokenizer, self._length, depth, key)
        document, blank = self.prompt.document, self.prompt.blank
        differs = document[: len(blank)] != blank
        alike = int(differs.argmax()) if differs.any() else len(blank)
        alike -= alike % self._engine.chunk
        begun = self._begun
        if begun is None or begun.state.tokens > alike or not np.array_equal(begun.ids, blank):
            begun = self._begun = _Begun(blank, self._engine.start(), self._new_stores())
            begun.state.keep(*begun.kept.values())
        before = begun.state.tokens
        for event in self._engine.read(begun.state, [blank[before:alike]]):
            yield event.tokens
        self.state = begun.state.fork()
        self.kept = {name: store.fork(self._pool()) for name, store in begun.kept.items()}
        self.state.keep(*self.kept.values())
        for event in self._engine.read(self.state, [document[alike:]]):
            yield event.tokens
        self.read_tokens = self._length - before
        self.store_bytes = sum(store.nbytes for store in self.kept.values())

    def _pool(self) -> BlockPool:
        return BlockPool(self._memory.budget_bytes)

    def _new_stores(self) -> dict[str, TokenStore]:
        pool = self._pool()
        stores: dict[str, TokenStore | None] = {}
        if self._looking is not None:
            stores["index"] = index_for(self._loaded.lm, self._looking, 0, pool)
        if self.source == "memory":
            stores["store"] = store_for(self._engine, 0, pool, int8=self._memory.int8)
        return {name: store for name, store in stores.items() if store is not None}

    def answer(self, source: str) -> list[int]:
        """The tokens of the answer that comes from ``source``."""
        engine, state, ids = self._engine, self.state, self.prompt.question
        if source == "passages" and self._looking is not None:
            ids = self._reread(self.kept["index"], self._looking)
            method = MethodChoice().build(self._loaded.lm.trained_length, 0)
            longest = len(ids) + self._limit
            engine = Engine(self._loaded.lm, method, self._engine.chunk, longest=longest)
            state = engine.start()
        elif source == "memory" and isinstance(engine.method, LMInfinite):
            memory = self._memory.build(engine.method, len(engine.layers))
            state = state.fork(replace(engine.method, memory=memory), self.kept["store"])
        else:
            state = state.fork()
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
        document = self.prompt.document
        count = len(document)
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
        done = self.prompt.head_tokens
        parts: list[Ids] = [document[:done]]
        half = PASSAGE_TOKENS // 2
        for passage in sorted(best, key=lambda item: item.first):
            first = passage.first - half
            if first > done:
                parts.append(gap)
            first, done = max(done, first), min(count, passage.stop + half)
            parts.append(document[first:done])
        parts.append(gap)
        return np.concatenate([*parts, self.prompt.question])
