"""How long one input may take, and how much memory."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

MEMORY_BYTES = 200 * 2**20
"""How much more memory than before the process may take at any time."""


class HangError(BaseException):
    """An input takes too long; no handler for errors of the system may stop this one."""


@contextlib.contextmanager
def within_seconds(seconds: float) -> Iterator[None]:
    """Raise an error if the block takes longer; in the main thread, where the system has alarms.

    Raises:
        HangError: It took longer.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
