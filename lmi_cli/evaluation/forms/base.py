"""What every form of records has."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row


@dataclass(frozen=True, slots=True)
class RecordFile:
    """The file that records come from.

    Attributes:
        path: Its path; None for standard input.
        task: Name of the task that the user gave, if any.
    """

    path: Path | None
    task: str | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "<stdin>" if self.path is None else str(self.path)

    @property
    def stem(self) -> str:
        """The task as the user named it, else the name of the file without its ending."""
        return self.task or ("stdin" if self.path is None else self.path.stem)


class RecordForm(ABC):
    """The form in which a data set is published.

    Attributes:
        name: Of the form, for reports.
        fields: A record is of this form if it has all of these.
        verbatim: Whether an answer is kept exactly as the model writes it, as published scripts
            expect. Otherwise it is what ``lmi qa`` would show.
        published: Where the words of its prompts are published as a file, which must be given.
        complete: Whether a record has the words of its prompt in it.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    verbatim: ClassVar[bool] = True
    published: ClassVar[str | None] = None
    complete: ClassVar[bool] = False

    def fits(self, row: Row) -> bool:
        """Whether a record is of this form."""
        return row.has(*self.fields)

    @abstractmethod
    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """The questions of a record; their numbers are not theirs yet.

        Raises:
            NoInputError: A field is missing or of the wrong type, or the task is unknown.
        """

    @abstractmethod
    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """How the questions of one task are asked and scored.

        Raises:
            NoInputError: They cannot be scored in one way.
        """

    @abstractmethod
    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """An answer in the form that the published script reads."""

    @abstractmethod
    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """The answer in such a prediction, a text if nobody has changed it.

        Raises:
            KeyError: It has none.
        """

    def words_name(self, task: str) -> str:
        """Name of the task in a file of prompts."""
        return task

    def file_name(self, task: str) -> str:
        """Name of the file of predictions."""
        return f"{task}.jsonl"


def unknown_task(where: str, task: str, known: Mapping[str, object], form: str) -> NoInputError:
    """The error of a record whose task is not one of those that the data set has."""
    return NoInputError(
        f"{where}: {form} has no task {task[:80]!r}",
        hint=f"--as NAME says which it is: one of {', '.join(known)}",
    )
