"""Answer questions about a document that is read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmi_cli.sources.blocks import Corpus
from lmi_cli.tasks.events import Delta, Note, Progress
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Answer, ReadingReport, Timing


@dataclass(frozen=True, slots=True)
class QAReport:
    """All answers, and how they came about."""

    reading: ReadingReport
    answers: list[Answer]
    timing: Timing


def answer(
    reading: Reading, corpus: Corpus | None, questions: Sequence[str]
) -> Iterator[Progress | Note | Delta | Answer | QAReport]:
    """Answer each question from the state after reading; the report comes last.

    Args:
        reading: By which model, and how.
        corpus: What to read first; None for a reading that was restored.
        questions: As the user asked them.
    """
    if corpus is not None:
        yield from reading.read(corpus, questions)
    else:
        reading.require_room(questions)
    answers: list[Answer] = []
    for index, question in enumerate(questions):
        for event in reading.ask(question, index):
            if isinstance(event, Answer):
                answers.append(event)
            yield event
    yield QAReport(reading.report(), answers, reading.timing)
