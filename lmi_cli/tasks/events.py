"""What a task tells while it runs, and how it is run to its end.

A task is a generator: it yields events and returns its report. Imports the standard library only.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Event = TypeVar("Event")
Changed = TypeVar("Changed")
Report = TypeVar("Report")


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


def follow(
    task: Generator[Event, None, Report], show: Callable[[Event], object] = lambda event: None
) -> Report:
    """Run a task to its end and return its report.

    Args:
        task: The generator.
        show: Is called with each event.
    """
    while True:
        try:
            event = next(task)
        except StopIteration as end:
            report: Report = end.value
            return report
        show(event)


def relay(
    task: Generator[Event, None, Report], change: Callable[[Event], Changed | None]
) -> Generator[Changed, None, Report]:
    """A task within a task: its events changed, or left out where ``change`` gives None."""
    while True:
        try:
            event = next(task)
        except StopIteration as end:
            report: Report = end.value
            return report
        changed = change(event)
        if changed is not None:
            yield changed
