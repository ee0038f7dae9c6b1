"""Answer questions about a document that is read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmi_cli.models.load import Loaded
from lmi_cli.sources.document import Corpus
from lmi_cli.tasks.events import Delta, Note, Progress
from lmi_cli.tasks.methodchoice import MemoryChoice, MethodChoice
from lmi_cli.tasks.reading import AnswerOptions, Reading
from lmi_cli.tasks.report import Answer, ReadingReport, Timing


@dataclass(frozen=True, slots=True)
class QAReport:
    """All answers, and how they came about."""

    reading: ReadingReport
    answers: list[Answer]
    timing: Timing


def answer(
    loaded: Loaded,
    corpus: Corpus,
    questions: Sequence[str],
    choice: MethodChoice,
    options: AnswerOptions,
    memory: MemoryChoice = MemoryChoice(),  # noqa: B008 - frozen
    *,
    chunk: int,
) -> Iterator[Progress | Note | Delta | Answer | QAReport]:
    """Read ``corpus`` and answer each question from there; the report comes last."""
    reading = Reading(loaded, choice, options, memory, chunk=chunk)
    yield from reading.read(corpus, questions)
    answers: list[Answer] = []
    for index, question in enumerate(questions):
        for event in reading.ask(question, index):
            if isinstance(event, Answer):
                answers.append(event)
            yield event
    yield QAReport(reading.report(), answers, reading.timing)
