"""The events that tasks yield, and functions that run a task.

A task is a generator that yields events and returns a report. Imports the standard library only.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Event = TypeVar("Event")
Changed = TypeVar("Changed")
Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is done so far, and how much there is if that is known, in tokens or ``unit``.

    ``note`` is what is known of the result so far, in a few words.
    """

    done: int
    total: int | None = None
    unit: str = "tok"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of text of the answer to question ``index``, which counts from zero."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user."""

    text: str


def follow(
    task: Generator[Event, None, Report], show: Callable[[Event], object] = lambda event: None
) -> Report:
    """Run a task to its end and return its report; call ``show`` with each event."""
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
    """Run a task within a task, with ``change`` applied to its events; drop those it makes None."""
    while True:
        try:
            event = next(task)
        except StopIteration as end:
            report: Report = end.value
            return report
        changed = change(event)
        if changed is not None:
            yield changed
