"""Starts processes that share the work of this command, and looks after them.

Each is this program with the same arguments. They are in the process group of this one, so a
terminal stops and continues all of them, and none outlives this one: each ends when its standard
input does, which only this process holds open. Imports the standard library and ``place``.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from lmi_cli.processes.place import THREADS, GroupPlace, threads_of_each

_LOOK_EVERY_S = 0.05
_PATIENCE_S = 10.0
"""How long a process may take to end before it is killed."""


class EndedBySignalError(Exception):
    """A process was ended by a signal that this one did not send.

    Attributes:
        rank: Its rank.
        number: The number of the signal.
    """

    def __init__(self, rank: int, number: int) -> None:
        super().__init__(f"process {rank} was ended by {signal_name(number)}")
        self.rank, self.number = rank, number


def signal_name(number: int) -> str:
    """The name of a signal, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start(count: int, threads: int | None = None) -> int:
    """Run this command again in several processes; return the exit code when all have ended.

    When one fails, the others are ended, and the code is that of the first to fail. So are all if
    an exception, as from a signal, ends this call.

    Args:
        count: Number of processes.
        threads: Threads of each; None divides the processors among them.

    Raises:
        EndedBySignalError: The first to fail was ended by a signal.
    """
    command = [sys.executable, *sys.orig_argv[1:]]
    with tempfile.TemporaryDirectory(prefix="lmi-", ignore_cleanup_errors=True) as folder:
        running: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(count):
                own = GroupPlace(rank, count, rank, count, folder).environment()
                usual = {THREADS: str(threads or threads_of_each(count))}
                if threads is not None:
                    own |= usual
                running.append(_started(command, usual | os.environ | own))
            return _outcome(running)
        finally:
            _end(running)


def _started(command: Sequence[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process that does not hear Ctrl-C: this one does, and ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(running: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Wait until all have ended well, or one has not."""
    while True:
        codes = [process.poll() for process in running]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                raise EndedBySignalError(rank, -code)
        if failed := [code for code in codes if code]:
            return failed[0]
        if None not in codes:
            return 0
        time.sleep(_LOOK_EVERY_S)


def _end(running: "Sequence[subprocess.Popen[bytes]]") -> None:
    """End processes that still run, and wait for their end."""
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.send_signal(getattr(signal, "SIGCONT", signal.SIGTERM))
    until = time.monotonic() + _PATIENCE_S
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def end_with_parent(folder: str) -> None:
    """End this process when the one that has started it is gone, and remove its folder."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + getattr(signal, "SIGHUP", 1))

    threading.Thread(target=watch, daemon=True).start()
