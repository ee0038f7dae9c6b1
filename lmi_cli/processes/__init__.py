"""The processes that share the work of a command: by default, one alone.

``place`` tells from the environment whether this process is one of several, ``launched`` joins
them (torch.distributed through accelerate), and ``starting`` starts some on this machine.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from lmi_cli.journal import Journal

Shared = TypeVar("Shared")


class Processes:
    """One process that does everything.

    All of several processes must make the same calls in the same order, with the same arguments
    where nothing else is said: they wait for each other.

    Attributes:
        rank: Number of this process, from 0. Process 0 prints the result.
        count: Number of all of them.
    """

    rank: int = 0
    count: int = 1
    _done: int = 0

    def share(self, units: Sequence[Shared]) -> Iterator[Shared]:
        """The units that this process is to do, one by one, as each is asked for.

        All processes must pass the same units in the same order; each unit is given to one of them.
        """
        self._done = 0
        yield from units

    def done(self, more: int = 0) -> int:
        """Say that this process has done ``more``; return how many all have done so far.

        The number begins anew with each :meth:`share`.
        """
        self._done += more
        return self._done

    def waiting(self) -> Iterator[None]:
        """Wait for the others to come here; yields a few times a second until all are here."""
        yield from ()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Process 0 runs the block first, then the others do; all leave it together."""
        yield

    def collect(self, value: Any) -> list[Any]:
        """One value of each process, by rank; each process gets all. A value is plain JSON."""
        return [value]

    def gather(self, journal: Journal) -> None:
        """Wait for the others, and add their results to the journal of each process."""
