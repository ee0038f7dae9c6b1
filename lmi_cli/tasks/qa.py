"""Answer questions, or follow an instruction, about a document that is read once."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from lmi_cli.tasks.asking import Asker
from lmi_cli.tasks.events import Delta, Progress
from lmi_cli.tasks.report import Answer, ReadingReport, Timing


@dataclass(frozen=True, slots=True)
class QAReport:
    """All answers, with the reading and the timing behind them."""

    reading: ReadingReport
    answers: list[Answer]
    timing: Timing


def answer(
    asker: Asker, questions: Sequence[str]
) -> Generator[Delta | Answer | Progress, None, QAReport]:
    """Answer the questions in their order, all from the state after reading.

    Raises:
        UsageError: See :meth:`Asker.ask`.
    """
    answers = yield from asker.ask_all(questions)
    return QAReport(asker.reading.report(), answers, asker.timing)
