"""Limits that a container, or another control group of Linux, sets this process.

Imports only the standard library. A limit may be set on any group around the process; where there
are no control groups, there are no limits.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


def free_bytes() -> int | None:
    """Memory that this process can still allocate; None without a limit."""
    free = []
    for folder in _folders("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                free.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
    return max(0, min(free)) if free else None


def processors() -> float | None:
    """Processors that this process can keep busy on average; None without a limit."""
    found = []
    for folder in _folders("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
            found.append(int(quota) / int(period))
    return min((limit for limit in found if limit > 0), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Folders of the groups around this process, in versions 1 and 2, innermost first."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = _MOUNT / controller if controllers else _MOUNT
        group = base / path.lstrip("/")
        while group != base and base in group.parents:
            yield group
            group = group.parent
        yield base
