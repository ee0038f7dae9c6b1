"""Memory of this process, as the system counts it."""

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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
