"""The processes that share the work of a command: by default, one alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from lmi_cli.journal import Journal, Unit


class Processes:
    """One process that does everything.

    Attributes:
        rank: Number of this process, from 0. Process 0 prints the result.
        count: Number of all of them.
    """

    rank: int = 0
    count: int = 1

    def share(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """The units that this process is to do, one by one, as each is asked for.

        All processes must pass the same units in the same order; each unit is given to one of them.
        """
        yield from units

    def gather(self, journal: Journal) -> None:
        """Wait for the others, and add their results to the journal of each process."""

    def collect(self, value: Any) -> list[Any]:
        """One value of each process, by rank; each process gets all."""
        return [value]
