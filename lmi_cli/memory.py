"""Memory of this machine and of this process: how much is free, and the peak use.

Imports the standard library, psutil and ``cgroups``.
"""

import contextlib
import resource
import sys
from pathlib import Path

from lmi_cli import cgroups
from lmi_cli.errors import ResourceError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def available_bytes() -> int:
    """Memory that this process can allocate without swapping, within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = cgroups.free_bytes()
    return free if limit is None else min(free, limit)


def require(needed: int, what: str, hint: str, *, free: int | None = None) -> None:
    """Raise an error if more memory is needed than is free.

    Args:
        needed: Bytes needed.
        what: What needs them, as the subject of the message.
        hint: What the user can change.
        free: Bytes that are free; None asks the system.

    Raises:
        ResourceError: Too little is free; the message gives both figures.
    """
    free = available_bytes() if free is None else free
    if needed > free:
        raise ResourceError(
            f"{what} takes {needed / 1e9:,.1f} GB of memory, but only {free / 1e9:,.1f} GB is free",
            hint=hint,
        )


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out; of the CPU's, torch says so only in words."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far, or since :func:`forget_peak_rss`."""
    # On Linux the kernel's high-water mark is right; ru_maxrss starts at the size of the parent.
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_rss() -> bool:
    """Reset the peak; return False if the system cannot."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
        return True
    return False
