"""Progress on stderr: a bar on a terminal; otherwise, with ``-v``, a line every few seconds."""

import sys
import time

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from lmi_cli.cli.console import mebibytes, message, one_line

_LINE_EVERY_S = 5.0
_SPEED_FROM, _BAR_FROM, _MEMORY_FROM = 70, 90, 100
"""Columns of a terminal from which on there is room for more than what is done and left."""


class _Tokens(ProgressColumn):
    """Such as ``42 % of 29,000 tok  410 tok/s``, or ``12,288 tok  410 tok/s``."""

    def __init__(self, *, speed: bool) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._speed = speed

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if not (task.completed or task.total):
            return Text()
        done = f"{int(task.completed):,}"
        if task.total is not None:
            done = f"{task.percentage:.0f} % of {int(task.total):,}"
        speed = f"  {task.speed:,.0f} {unit}/s" if task.speed and self._speed else ""
        return Text(f"{done} {unit}{speed}", style="progress.data.speed")


class _Memory(ProgressColumn):
    """Resident memory of this process."""

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._process = psutil.Process()

    def render(self, task: Task) -> Text:
        return Text(mebibytes(self._process.memory_info().rss), style="dim")


class ProgressDisplay:
    """A context manager that shows the progress of the current activity, unless ``quiet``.

    If stderr is not a terminal, ``verbose`` prints a line every few seconds instead.
    """

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        terminal = _is_terminal()
        self._bar: Progress | None = None
        if terminal and not quiet:
            console = Console(stderr=True)
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                *([BarColumn(bar_width=16)] if console.width >= _BAR_FROM else []),
                _Tokens(speed=console.width >= _SPEED_FROM),
                TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
                *([_Memory()] if console.width >= _MEMORY_FROM else []),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        self._lines = verbose and not terminal and not quiet
        self._what = ""
        self._task: TaskID | None = None
        self._last_line = 0.0

    @property
    def shows(self) -> bool:
        """Whether anything is shown at all."""
        return self._bar is not None or self._lines

    def __enter__(self) -> "ProgressDisplay":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        if self._bar is not None:
            self._bar.stop()

    def show(
        self, what: str, done: int, total: int | None, unit: str = "tok", *, note: str = ""
    ) -> None:
        """Show that ``done`` of ``total`` units of an activity are done; None is unknown.

        ``note`` is shown behind it.
        """
        if self._bar is not None:
            if what != self._what or self._task is None:
                self.clear()
                if not self._bar.live.is_started:
                    self._bar.start()
                self._task = self._bar.add_task(one_line(what), total=total, unit=unit, note="")
                self._what = what
            self._bar.update(self._task, completed=done, total=total, note=one_line(note))
        elif self._lines and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            of = "" if total is None else f"/{total:,}"
            behind = f", {note}" if note else ""
            message(f"{what}: {done:,}{of} {unit}{behind}" if done or total else what)

    def bytes(self, done_bytes: int, total_bytes: int | None, what: str) -> None:
        """Show the progress of a download or a conversion."""
        total = None if total_bytes is None else total_bytes // 2**20
        self.show(what, done_bytes // 2**20, total, "MiB")

    def clear(self) -> None:
        """Remove the bar, so that other text can be printed."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
        self._task = None


def show_cursor() -> None:
    """Show the cursor again that a bar has hidden."""
    if _is_terminal():
        Console(stderr=True).show_cursor()


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
