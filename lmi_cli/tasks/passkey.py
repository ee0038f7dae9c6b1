"""The passkey test: whether the model finds what is hidden in a long text.

Prompts are built from token ids, so their length is exact; it counts everything up to the answer.
Each trial is a unit of work, and all figures follow from the results of the units alone.
"""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lmi_cli.engine import CHUNK
from lmi_cli.errors import ResourceError
from lmi_cli.journal import Journal
from lmi_cli.models.load import Loaded
from lmi_cli.processes import Processes
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.calibrate import find_heads
from lmi_cli.tasks.events import Note, Progress, follow, relay
from lmi_cli.tasks.haystacks import Haystack, build_text, room_beside
from lmi_cli.tasks.needles import Needle, Quiz
from lmi_cli.tasks.passkey_reading import (
    PlannedReading,
    SharedTexts,
    planned_readings,
)
from lmi_cli.tasks.passkey_report import (
    Cell,
    MethodUsed,
    PasskeyReport,
    PasskeyWay,
    Trial,
    WayReport,
)
from lmi_cli.tasks.plan import RANKS, ReadingRequest
from lmi_cli.tasks.report import Answer, Timing
from lmi_cli.text.prompts import ContinuationPrompts


@dataclass(frozen=True, slots=True)
class PasskeyGrid:
    """The texts of a run: so many trials of each length and depth.

    Attributes:
        lengths: In tokens, everything up to the answer included.
        depths: In percent of the haystack before the first needle.
        trials: Number of texts of each length and depth.
        needle: What is hidden.
        haystack: What it is hidden in.
        seed: Decides which values are hidden.
    """

    lengths: Sequence[int]
    depths: Sequence[float]
    trials: int
    needle: Needle
    haystack: Haystack
    seed: int

    def quiz(self, length: int, depth: float, trial: int) -> Quiz:
        """What one of the texts hides and asks."""
        return self.needle.quiz(self.seed, length, depth, trial)


@dataclass(frozen=True, slots=True)
class CellDone:
    """All trials of a cell of one of the ways have results."""

    way: PasskeyWay
    cell: Cell


def passkey(
    model: Loaded,
    grid: PasskeyGrid,
    ways: Sequence[PasskeyWay],
    *,
    max_new_tokens: int | None = None,
    rank: str = RANKS[0],
    chunk: int = CHUNK,
    journal: Journal | None = None,
    processes: Processes | None = None,
) -> Generator[Progress | Note | CellDone, None, PasskeyReport]:
    """Run the grid by each of the ways, and report each cell when it is done.

    Args:
        model: The model.
        grid: The texts.
        ways: How they are read and answered.
        max_new_tokens: Longest answer; None for what the needle needs.
        rank: How passages are ranked, one of ``plan.RANKS``.
        chunk: Tokens of a forward pass.
        journal: Results of earlier starts, to which those of this one are added.
        processes: Those that share the work.

    Raises:
        UsageError: A length leaves no room for the prompt, or a source of answers is missing.
    """
    journal = Journal(None, {}) if journal is None else journal
    processes = processes or Processes()
    run = _Run(model, grid, ways, max_new_tokens or grid.needle.answer_tokens, rank, chunk, journal)
    yield from run.prepare()
    yield from run.work(processes)
    processes.gather(journal)
    return run.report(processes)


_Text = tuple[int, float, int]
"""Length, depth and number of a trial."""


class _Run:
    """One start of the test; for the arguments see :func:`passkey`."""

    def __init__(
        self,
        model: Loaded,
        grid: PasskeyGrid,
        ways: Sequence[PasskeyWay],
        max_new_tokens: int,
        rank: str,
        chunk: int,
        journal: Journal,
    ) -> None:
        self._model, self._grid, self._ways, self._journal = model, grid, ways, journal
        introduction = grid.quiz(grid.lengths[0], grid.depths[0], 0).introduction
        prompts = self._prompts = ContinuationPrompts(model.tokenizer, introduction)
        self._requests = [
            ReadingRequest(prompts, way.choice, way.memory, max_new_tokens, chunk) for way in ways
        ]
        self._options = [
            AnswerOptions(prompts, way.choice, way.name, max_new_tokens, rank=rank, evidence=False)
            for way in ways
        ]
        # Depths in ascending order, so that what texts have in common grows.
        self._texts = [
            (length, depth, trial)
            for length in grid.lengths
            for depth in sorted(grid.depths)
            for trial in range(grid.trials)
        ]
        self._planned: dict[tuple[int, int], list[PlannedReading]] = {}
        self._read = self._generated = 0
        self._timing = Timing()

    def prepare(self) -> Generator[Progress | Note, None, None]:
        """Refuse what is impossible before anything is read; find retrieval heads if needed."""
        for text in self._texts:
            room_beside(self._prompts, text[0], self._grid.quiz(*text))
        readings = [each for text in self._texts for each in self._readings(text)]
        if any(planned.plan.needs_heads for planned in readings):
            heads = yield from find_heads(self._model, self._requests[0].chunk)
            self._model = replace(self._model, known=replace(self._model.known, heads=heads))
            self._planned.clear()
            for text in self._texts:
                self._readings(text)

    def work(self, processes: Processes) -> Generator[Progress | Note | CellDone, None, None]:
        """Do those trials that fall to this process and have no result yet."""
        total = sum(text[0] * len(self._missing(text)) for text in self._texts)
        done = 0
        noted: set[str] = set()

        def overall(event: Progress | Note) -> Progress | Note | None:
            """Convert progress to that of the whole grid, and pass each note on once."""
            if isinstance(event, Progress):
                return Progress(min(done + event.done, total), total)
            new = event.text not in noted
            noted.add(event.text)
            return event if new else None

        shared: dict[tuple[int, tuple[int, ...]], SharedTexts] = {}
        shown = set[tuple[int, int, float]]()
        texts = self._texts
        if processes.count > 1:  # the longest first, so that none is left to one process alone
            texts = sorted(texts, key=lambda text: -text[0])
        for unit in processes.share([self._unit(text) for text in texts]):
            text = (int(unit["length"]), float(unit["depth"]), int(unit["trial"]))
            for planned in self._missing(text):
                at = text[0], planned.ways
                if at not in shared:  # texts of one length have a beginning in common
                    shared = {key: kept for key, kept in shared.items() if key[0] == text[0]}
                    shared[at] = SharedTexts(self._model)
                task = self._do(text, planned, shared[at])
                steps: Generator[Progress | Note, None, None] = relay(task, overall)
                yield from steps
                done = processes.done(text[0])
                yield Progress(done, total)
            for number, way in enumerate(self._ways):
                cell = number, *text[:2]
                units = (self._unit((*text[:2], n), way) for n in self._trials)
                if cell not in shown and all(unit in self._journal for unit in units):
                    shown.add(cell)
                    yield CellDone(way, self._cell(way, *text[:2]))
        for _ in processes.waiting():
            yield Progress(processes.done(), total)

    def report(self, processes: Processes) -> PasskeyReport:
        """What follows from all results."""
        expected = [self._unit(text, way) for text in self._texts for way in self._ways]
        results = [self._journal.result(unit) for unit in expected if unit in self._journal]
        if len(results) < len(expected):
            raise ResourceError(
                f"{len(expected) - len(results):,} of {len(expected):,} answers are missing",
                hint="start again with the same --results FILE to go on",
            )
        texts = {  # once for each method, however many ways of answering there are
            (text, way.choice.name): self._journal.result(self._unit(text, way))["text_tokens"]
            for text in self._texts
            for way in self._ways
        }
        seconds = self._timing.prefill_s, self._timing.decode_s
        parts = processes.collect([self._read, self._generated, *seconds])
        timing = Timing()
        timing.add_prefill(sum(part[0] for part in parts), max(part[2] for part in parts))
        timing.add_decode(sum(part[1] for part in parts), max(part[3] for part in parts))
        return PasskeyReport(
            ways=[self._way_report(way) for way in self._ways],
            tokens=sum(texts.values()),
            generated=sum(result["tokens"] for result in results),
            cache_bytes=max(result["cache_bytes"] for result in results),
            store_bytes=max(result["store_bytes"] for result in results),
            read=sum(part[0] for part in parts),
            timing=timing,
        )

    @property
    def _trials(self) -> range:
        return range(self._grid.trials)

    def _unit(self, text: _Text, way: PasskeyWay | None = None) -> dict[str, Any]:
        """What tells a text from others, or an answer about it by one of the ways."""
        grid, (length, depth, trial) = self._grid, text
        unit = {
            "length": length,
            "depth": float(depth),
            "trial": trial,
            "needle": grid.needle.name,
            "values": grid.needle.value,
            "haystack": grid.haystack.identity,
            "seed": grid.seed,
        }
        if way is None:
            return unit
        method = {"name": way.choice.name, **way.choice.given}
        return unit | {"method": method, "way": way.name}

    def _readings(self, text: _Text) -> list[PlannedReading]:
        """The readings of a text, which depend on its length and that of the question alone."""
        question = self._grid.quiz(*text).question
        prompt = self._prompts.whole()
        tail = len(prompt.tail(question))
        if (text[0], tail) not in self._planned:
            tokens = text[0] - len(prompt.prefix) - tail
            planned = planned_readings(self._model, self._ways, self._requests, tokens, question)
            self._planned[text[0], tail] = planned
        return self._planned[text[0], tail]

    def _missing(self, text: _Text) -> list[PlannedReading]:
        """The readings of a text that serve a way without a result."""
        return [
            planned
            for planned in self._readings(text)
            if any(self._unit(text, self._ways[n]) not in self._journal for n in planned.ways)
        ]

    def _do(
        self, text: _Text, planned: PlannedReading, shared: SharedTexts
    ) -> Generator[Progress | Note, None, None]:
        """Read a text and ask by each of the ways that a reading serves."""
        grid, quiz = self._grid, self._grid.quiz(*text)
        built = build_text(self._prompts, text[0], text[1], quiz, grid.haystack)
        reading = yield from shared.read(built, planned)
        self._read += shared.fresh_tokens
        self._timing.add_prefill(self._read, shared.seconds)
        whole: Answer | None = None
        alone: str | None = None
        used = reading.report()
        for number, plan in zip(planned.ways, planned.plans, strict=True):
            unit = self._unit(text, self._ways[number])
            if unit in self._journal:
                continue
            asker = Asker(self._model, reading, self._options[number])
            # What is seen whole is answered in one way only.
            answer = whole or follow(asker.ask(quiz.question))
            seconds = asker.timing.decode_s
            self._generated += 0 if whole else answer.tokens
            self._timing.add_decode(self._generated, seconds)
            whole = answer if answer.answered_from == "whole" else None
            window = None
            if answer.answered_from not in ("whole", "window") and planned.plan.depth is None:
                if alone is None:
                    alone = follow(asker.ask(quiz.question, answer_from="window")).answer
                window = alone
            score = grid.needle.score(answer.answer, quiz.expected)
            trial = Trial(
                text[2],
                list(quiz.expected),
                answer.answer,
                score,
                score == 1.0,
                list(built.places),
                answer.tokens,
                seconds,
                window,
                None if window is None else grid.needle.score(window, quiz.expected),
            )
            method = MethodUsed(
                plan.method.name,
                plan.reported_method.parameters(),
                plan.bound_tokens,
                plan.form,
                answer.answered_from,
            )
            sizes = {
                "text_tokens": used.document_tokens - used.unread_tokens,
                "cache_bytes": used.cache_bytes,
                "store_bytes": used.store_bytes,
            }
            self._journal.add(unit, {**asdict(trial), **sizes, "method": asdict(method)})

    def _cell(self, way: PasskeyWay, length: int, depth: float) -> Cell:
        results = [self._journal.result(self._unit((length, depth, n), way)) for n in self._trials]
        return Cell(length, depth, [Trial.of(result) for result in results])

    def _way_report(self, way: PasskeyWay) -> WayReport:
        grid = self._grid
        cells = [self._cell(way, length, depth) for length in grid.lengths for depth in grid.depths]
        last = max(grid.depths), grid.trials - 1
        methods = {
            length: MethodUsed(**self._journal.result(self._unit((length, *last), way))["method"])
            for length in grid.lengths
        }
        return WayReport(way, cells, methods)
