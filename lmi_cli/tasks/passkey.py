"""The passkey test: whether the model finds a number that is hidden in a long text.

The text is that of LM-Infinite, appendix, after Mohtashami and Jaggi (arXiv 2305.16300). Prompts
are built from token ids, so their length is exact; it counts everything up to the answer.
"""

import random
import re
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from lmi_cli.engine import CHUNK
from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice, Parameter
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.calibrate import find_heads
from lmi_cli.tasks.events import Note, Progress, follow, relay
from lmi_cli.tasks.plan import RANKS, MemoryChoice, Plan, ReadingRequest, plan_reading
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.report import ReadingReport, Timing
from lmi_cli.text.encoded import Encoded
from lmi_cli.text.prompts import ContinuationPrompts
from lmi_cli.text.stream import EncodedStream
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
    """One prompt and its answer.

    Attributes:
        correct: Whether the first integer of the answer is the key.
        answer_s: Seconds from the question to the end of the answer.
        window_answer: The answer from sinks and window alone; None if ``answer`` is one.
        window_correct: Whether the first integer of ``window_answer`` is the key.
    """

    key: str
    answer: str
    correct: bool
    answer_s: float = field(compare=False)
    window_answer: str | None = None
    window_correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """All trials of one length (in tokens) and depth (in percent of the filler before the key)."""

    length: int
    depth: float
    trials: list[Trial]

    @property
    def correct(self) -> int:
        """Number of correct answers."""
        return sum(trial.correct for trial in self.trials)

    @property
    def accuracy(self) -> float:
        """Share of correct answers."""
        return self.correct / len(self.trials)

    @property
    def window_accuracy(self) -> float | None:
        """Share of correct answers from the window alone; None if these were not generated."""
        compared = [trial.window_correct for trial in self.trials]
        return None if None in compared else sum(map(bool, compared)) / len(compared)


@dataclass(frozen=True, slots=True)
class MethodUsed:
    """How prompts of one length were read and answered.

    For the fields see :class:`lmi_cli.tasks.report.ReadingReport` and ``Answer``.
    """

    name: str
    parameters: dict[str, Parameter]
    bound_tokens: int | None
    form: str
    answered_from: str


@dataclass(frozen=True, slots=True)
class PasskeyReport:
    """The whole grid, ordered by length, then depth.

    ``tokens`` counts the tokens of all prompts; fewer are ``read``, as a common beginning is read
    once. Sizes are those of the largest prompt.
    """

    cells: list[Cell]
    methods: dict[int, MethodUsed]
    tokens: int
    read: int
    generated: int
    cache_bytes: int
    store_bytes: int
    timing: Timing


class PasskeyText(NamedTuple):
    """The tokens of a text of the test, up to the question, and the text itself."""

    encoded: Encoded
    text: str

    def __len__(self) -> int:
        return len(self.encoded)

    def first(self, count: int) -> "PasskeyText":
        """The first ``count`` tokens, or all if there are fewer."""
        if count >= len(self):
            return self
        return PasskeyText(self.encoded.first(count), self.text[: self.encoded.starts[count]])


def build_text(tokenizer: Tokenizer, length: int, depth: float, key: str | None) -> PasskeyText:
    """A text that makes, with prefix and question, a prompt of exactly ``length`` tokens.

    The key is placed after ``depth`` percent of the filler. The first repetition of the filler is
    cut at its start to reach the exact length. If ``key`` is None, its sentences are left out, and
    the text is that much shorter.

    Raises:
        UsageError: The length leaves no room for prefix, key and question.
    """
    head, filler, needle = (
        PasskeyText(tokenizer.encode(text), text)
        for text in (PREFIX, FILLER, KEY.format(key=key or "10000"))
    )
    around = len(tokenizer.prefix) + len(head) + len(needle) + len(tokenizer.encode(QUESTION))
    left = length - around
    if left < 0:
        raise UsageError(
            f"length {length:,} is too short for a passkey prompt",
            hint=f"the shortest for this model is {around:,} tokens",
        )
    whole, rest = divmod(left, len(filler))
    before = round(whole * depth / 100)
    cut = len(filler) - rest
    start = int(filler.encoded.starts[cut]) if rest else len(filler.text)
    begin = PasskeyText(filler.encoded.after(cut, start), filler.text[start:])
    hidden = [] if key is None else [needle]
    return _joined([head, begin, *[filler] * before, *hidden, *[filler] * (whole - before)])


def _joined(parts: Sequence[PasskeyText]) -> PasskeyText:
    offsets = np.cumsum([0, *(len(part.text) for part in parts)])
    starts = [part.encoded.starts + at for part, at in zip(parts, offsets, strict=False)]
    ids = np.concatenate([part.encoded.ids for part in parts])
    return PasskeyText(Encoded(ids, np.concatenate(starts)), "".join(part.text for part in parts))


def key_for(seed: int, length: int, depth: float, trial: int) -> str:
    """The five-digit key of a trial; the same for the same arguments on any machine."""
    return str(random.Random(f"{seed}/{length}/{depth:g}/{trial}").randint(10_000, 99_999))


def passkey(
    model: Loaded,
    lengths: Sequence[int],
    depths: Sequence[float],
    *,
    trials: int,
    choice: MethodChoice,
    memory: MemoryChoice,
    max_new_tokens: int,
    seed: int,
    rank: str = RANKS[0],
    chunk: int = CHUNK,
) -> Generator[Progress | Note | Cell, None, PasskeyReport]:
    """Run the grid, and yield each cell when it is done.

    The grid has ``trials`` prompts of each length, in tokens up to the answer, and each depth, in
    percent of the filler. ``seed`` decides which keys are hidden.

    Raises:
        UsageError: A length leaves no room for the prompt, or the source of answers is missing.
    """
    for length in lengths:  # an impossible length fails before anything is run
        build_text(model.tokenizer, length, 0, "10000")
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    request = ReadingRequest(prompts, choice, memory, max_new_tokens, chunk)
    options = AnswerOptions(prompts, choice, memory.answer_from, max_new_tokens, rank=rank)
    total = sum(lengths) * len(depths) * trials
    cells: list[Cell] = []
    methods: dict[int, MethodUsed] = {}
    timing = Timing()
    noted: set[str] = set()

    def in_grid(event: Progress | Note) -> Progress | Note | None:
        """Convert progress to that of the whole grid, and pass each note on once."""
        if isinstance(event, Progress):
            return Progress(done + event.done, total)
        new = event.text not in noted
        noted.add(event.text)
        return event if new else None

    reports: list[ReadingReport] = []
    done = fresh = generated = 0
    for length in lengths:
        texts = _Texts(model, request, length)
        yield from texts.prepare()
        for depth in depths:
            results: list[Trial] = []
            for trial in range(trials):
                key = key_for(seed, length, depth, trial)
                task = texts.read(depth, key)
                steps: Generator[Progress | Note, None, Reading] = relay(task, in_grid)
                reading = yield from steps
                done += length
                fresh += texts.fresh_tokens
                timing.add_prefill(fresh, texts.seconds)
                asker = Asker(model, reading, options)
                answer = follow(asker.ask(QUESTION))
                seconds = asker.timing.decode_s
                generated += answer.tokens
                timing.add_decode(generated, seconds)
                yield Progress(done, total)
                result = Trial(key, answer.answer, is_right(answer.answer, key), seconds)
                if answer.answered_from not in ("whole", "window") and reading.plan.depth is None:
                    alone = follow(asker.ask(QUESTION, answer_from="window")).answer
                    right = is_right(alone, key)
                    result = replace(result, window_answer=alone, window_correct=right)
                results.append(result)
                reports.append(used := reading.report())
                methods[length] = MethodUsed(
                    used.method, used.parameters, used.bound_tokens, used.form, answer.answered_from
                )
            cells.append(Cell(length, depth, results))
            yield cells[-1]
    sizes = (max(r.cache_bytes for r in reports), max(r.store_bytes for r in reports))
    return PasskeyReport(cells, methods, done, fresh, generated, *sizes, timing)


def is_right(answer: str, key: str) -> bool:
    """Whether the first integer of an answer is the key."""
    found = _INTEGER.search(answer)
    return found is not None and found[0] == key


class _Texts:
    """Reads texts of one length as ``qa`` would, but their common beginning only once.

    Attributes:
        fresh_tokens: Tokens that were read for the last text.
        seconds: Time for reading it.
    """

    def __init__(self, model: Loaded, request: ReadingRequest, length: int) -> None:
        self._model, self._request, self._length = model, request, length
        self._plan: Plan
        self._beginning: Reading | None = None
        self.fresh_tokens = 0
        self.seconds = 0.0

    def prepare(self) -> Generator[Progress | Note, None, None]:
        """Make the plan, and find the retrieval heads if it needs them."""
        tokenizer, known = self._model.tokenizer, self._model.known
        tokens = self._length - len(tokenizer.prefix) - len(tokenizer.encode(QUESTION))
        self._plan = plan_reading(known, self._request, tokens, [QUESTION])
        if self._plan.needs_heads:
            heads = yield from find_heads(self._model, self._request.chunk)
            self._model = replace(self._model, known=replace(known, heads=heads))
            self._plan = plan_reading(self._model.known, self._request, tokens, [QUESTION])

    def read(self, depth: float, key: str) -> Generator[Progress | Note, None, Reading]:
        """Read the text with ``key`` at ``depth``; the result is as if it were the only one.

        The common beginning ends with a chunk, so that both are split into the same chunks.
        """
        tokenizer, started = self._model.tokenizer, time.monotonic()
        text = build_text(tokenizer, self._length, depth, key)
        blank = build_text(tokenizer, self._length, depth, None)
        differs = text.encoded.ids[: len(blank)] != blank.encoded.ids
        alike = int(differs.argmax()) if differs.any() else len(blank)
        prefix = len(self._plan.prefix)
        if self._plan.excerpt is not None:
            alike = 0  # where the part that is read begins depends on the length of the text
        alike = max(0, alike + prefix - (alike + prefix) % self._plan.chunk - prefix)
        beginning = self._beginning
        if beginning is not None and beginning.document.tokens > alike:
            beginning = None
        before = 0 if beginning is None else beginning.state.tokens
        earlier = None
        if alike:
            if beginning is None or beginning.document.tokens < alike:
                beginning = yield from self._read(blank.first(alike), beginning)
            self._beginning, earlier = beginning, beginning.fork()
        reading = yield from self._read(text, earlier)
        self.fresh_tokens = reading.state.tokens - before
        self.seconds = time.monotonic() - started
        return reading

    def _read(
        self, text: PasskeyText, earlier: Reading | None
    ) -> Generator[Progress | Note, None, Reading]:
        model, plan = self._model, self._plan
        stream = EncodedStream(text.encoded, text.text, model.tokenizer)
        return (yield from read(model, stream, self._request, earlier=earlier, plan=plan))
