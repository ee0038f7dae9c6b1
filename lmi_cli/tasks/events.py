"""What a task tells while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens of the document that have been read.

    Attributes:
        tokens: So far.
        total: In all, where it is known.
    """

    tokens: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer.

    Attributes:
        index: Number of the question.
        text: To be appended.
    """

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know."""

    text: str
