"""How much memory is free, and the refusal of what would not fit, before any is taken.

Imports nothing heavy.
"""

from pathlib import Path

from lmi_cli.errors import ResourceError

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
