"""The ways of answering in the passkey test, and their figures: trials, cells, grids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lmi_cli.methods import MethodChoice, Parameter
from lmi_cli.tasks.plan import MemoryChoice
from lmi_cli.tasks.report import Timing


@dataclass(frozen=True, slots=True)
class PasskeyWay:
    """A method, and what its answers are based on.

    Attributes:
        choice: The method.
        memory: What is kept of a text, and the source of answers.
    """

    choice: MethodChoice
    memory: MemoryChoice

    @property
    def name(self) -> str:
        """The basis of answers that was asked for, as in ``--answer-from``."""
        return self.memory.answer_from


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt and its answer.

    Attributes:
        trial: Its number, from 0.
        expected: The values that were asked for.
        answer: What the model wrote.
        score: From 0 to 1; see :meth:`lmi_cli.tasks.needles.Needle.score`.
        correct: Whether the score is 1.
        places: Tokens of the text before each needle.
        tokens: Tokens of the answer.
        answer_s: Seconds from the question to the end of the answer.
        window_answer: The answer from sinks and window alone; None if ``answer`` is one.
        window_score: The score of ``window_answer``.
    """

    trial: int
    expected: list[str]
    answer: str
    score: float
    correct: bool
    places: list[int]
    tokens: int
    answer_s: float = field(compare=False)
    window_answer: str | None = None
    window_score: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Trial":
        """The trial of a result in a journal."""
        return cls(**{item.name: result[item.name] for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Cell:
    """All trials of one length (in tokens) and depth (in percent of the filler before the key)."""

    length: int
    depth: float
    trials: list[Trial]

    @property
    def accuracy(self) -> float:
        """Mean score."""
        return _mean([trial.score for trial in self.trials])

    @property
    def window_accuracy(self) -> float | None:
        """Mean score of answers from the window alone; None if these were not generated."""
        scores = [trial.window_score for trial in self.trials]
        known = [score for score in scores if score is not None]
        return _mean(known) if len(known) == len(scores) else None


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
class WayReport:
    """The grid of one method and one way of answering, ordered by length, then depth.

    ``methods`` has what was used by length.
    """

    way: PasskeyWay
    cells: list[Cell]
    methods: dict[int, MethodUsed]

    @property
    def accuracy(self) -> float:
        """Mean score of all trials."""
        return _mean([trial.score for cell in self.cells for trial in cell.trials])


@dataclass(frozen=True, slots=True)
class PasskeyReport:
    """The grids of all ways.

    Attributes:
        ways: In the order in which they were asked for.
        tokens: Tokens of all texts that the results are about, counted once for each method.
        generated: Tokens of all answers.
        cache_bytes: Size of the keys and values of the largest text.
        store_bytes: Size of its index and store.
        read: Tokens that were read now; what texts have in common is read once.
        timing: Seconds that were needed now.
    """

    ways: list[WayReport]
    tokens: int
    generated: int
    cache_bytes: int
    store_bytes: int
    read: int
    timing: Timing


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
