"""Events of a task, and ways to run one.

A task is a generator that yields events and returns its report. Imports the standard library only.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Event = TypeVar("Event")
Changed = TypeVar("Changed")
Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens have been read.

    Attributes:
        tokens: Number of tokens so far.
        total: Number of tokens in all, if it is known.
    """

    tokens: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer.

    Attributes:
        index: Number of the question, from zero.
        text: Text to append.
    """

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user."""

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
    """Run a task within a task: change its events, and drop those that become None."""
    while True:
        try:
            event = next(task)
        except StopIteration as end:
            report: Report = end.value
            return report
        changed = change(event)
        if changed is not None:
            yield changed
