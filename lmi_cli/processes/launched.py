"""Several processes: torch.distributed, set up by accelerate.

What goes from one process to another is small, so it goes through the store by which the processes
have found each other, whatever they compute on: numbers, and JSON, since objects would be pickled.
They wait for each other by asking the store again and again, for Python hears of a signal only
between two calls. Imported only where there are several processes.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from lmi_cli.errors import ResourceError
from lmi_cli.journal import Journal
from lmi_cli.processes import Processes, Shared
from lmi_cli.processes.place import THREADS, GroupPlace, threads_of_each

_ASK_EVERY_S = 0.05
_PART = 2**22
"""Bytes that are put into the store at once: it takes up to twice as many."""
_LOOPBACK = ("lo", "lo0")
_INTERFACE = "GLOO_SOCKET_IFNAME"


class Launched(Processes):
    """One of several processes; waits until all are there.

    Args:
        place: Which one it is.

    Raises:
        ResourceError: The others cannot be reached.
    """

    def __init__(self, place: GroupPlace) -> None:
        self.rank, self.count = place.rank, place.count
        self._calls = itertools.count()
        self._shared = ""
        os.environ.setdefault(THREADS, str(threads_of_each(place.local_count)))
        url = "env://"
        if place.folder is not None:
            url = Path(place.folder, "store").as_uri()
            _stay_on_this_machine()
        try:
            with _ended_by_signal(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                store, _, _ = next(rendezvous(url, place.rank, place.count))
                PartialState(
                    cpu=True,
                    store=PrefixStore("accelerate", store),
                    rank=place.rank,
                    world_size=place.count,
                )
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ResourceError(f"the other processes cannot be reached: {reason}") from error
        self._store = PrefixStore("lmi", store)

    def share(self, units: Sequence[Shared]) -> Iterator[Shared]:
        """See :meth:`Processes.share`: who has done a unit takes the next one that nobody has."""
        self._shared = shared = f"share {next(self._calls)}"
        while (at := self._store.add(f"{shared} next", 1) - 1) < len(units):
            yield units[at]

    def done(self, more: int = 0) -> int:
        """See :meth:`Processes.done`."""
        key = f"{self._shared} done"
        if more:
            return int(self._store.add(key, more))
        return self._number(key)

    def waiting(self) -> Iterator[None]:
        """See :meth:`Processes.waiting`."""
        key = f"wait {next(self._calls)}"
        arrived = int(self._store.add(key, 1))
        while arrived < self.count:
            yield
            time.sleep(_ASK_EVERY_S)
            arrived = self._number(key)

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """See :meth:`Processes.first`."""
        key = f"first {next(self._calls)}"
        while self.rank and not self._number(key):
            time.sleep(_ASK_EVERY_S)
        yield
        if not self.rank:
            self._store.add(key, 1)
        self._wait()

    def collect(self, value: Any) -> list[Any]:
        """See :meth:`Processes.collect`."""
        key, text = f"collect {next(self._calls)}", json.dumps(value)
        parts = range(0, len(text), _PART)
        for part in parts:
            self._store.set(f"{key} {self.rank} {part}", text[part : part + _PART])
        self._store.set(f"{key} {self.rank}", str(len(text)))
        self._wait()
        return [json.loads(self._text(f"{key} {rank}")) for rank in range(self.count)]

    def gather(self, journal: Journal) -> None:
        """See :meth:`Processes.gather`."""
        self._wait()
        journal.read()
        known = [set(units) for units in self.collect(list(journal.results))]
        lacking = set.union(*known) - set.intersection(*known)
        if not lacking:
            return
        own = {unit: result for unit, result in journal.results.items() if unit in lacking}
        for unit, result in (pair for each in self.collect(own) for pair in each.items()):
            if unit not in journal.results and self.rank:
                journal.results[unit] = result
            elif unit not in journal.results:
                journal.add(json.loads(unit), result)

    def fails_first(self) -> bool:
        """Say that this process fails; whether it is the first to do so."""
        try:
            return int(self._store.add("failed", 1)) == 1
        except RuntimeError:  # the store was in a process that is gone
            return False

    def leave(self) -> None:
        """Leave; process 0, in which the store may be, is the last to do so."""
        if self.rank:
            self._store.add("left", 1)
            return
        while self._number("left") < self.count - 1:
            time.sleep(_ASK_EVERY_S)

    def _wait(self) -> None:
        for _ in self.waiting():
            pass

    def _text(self, key: str) -> str:
        parts = range(0, self._number(key), _PART)
        return b"".join(self._store.get(f"{key} {part}") for part in parts).decode()

    def _number(self, key: str) -> int:
        """A number in the store; 0 if it is not there, for which the store itself would wait."""
        return int(self._store.get(key)) if self._store.check([key]) else 0


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end the process at once, without clean-up, for a call that may block."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stay_on_this_machine() -> None:
    """Let gloo listen to this machine only."""
    if os.name == "posix":
        names = {name for _, name in socket.if_nameindex()}
        for name in _LOOPBACK:
            if name in names:
                os.environ.setdefault(_INTERFACE, name)
