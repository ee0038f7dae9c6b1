"""Memory of this machine and of this process: what is free, what has been used at most.

Imports the standard library and psutil; may be imported by every package.
"""

import contextlib
import resource
import sys
from pathlib import Path

from lmi_cli.errors import ResourceError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

# A container's limit and use, in the second and the first version of Linux control groups.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_bytes() -> int:
    """Memory that this process can take without swapping, within the limit of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in _CGROUPS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such version, or no limit ("max")
            continue
    return max(0, free)


def require(needed: int, what: str, hint: str, *, free: int | None = None) -> None:
    """Refuse what needs more memory than is free.

    Args:
        needed: Bytes.
        what: What needs them, as the beginning of a sentence.
        hint: What the user can change.
        free: Bytes that are free; None asks the system.

    Raises:
        ResourceError: It does not fit; the message has both figures.
    """
    free = available_bytes() if free is None else free
    if needed > free:
        raise ResourceError(
            f"{what} takes {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free",
            hint=hint,
        )


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, or since :func:`forget_peak_rss`."""
    # On Linux the kernel's own mark is right; ru_maxrss starts from the size of the parent process.
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_rss() -> bool:
    """Begin to count the peak anew; False where the system cannot."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
        return True
    return False
