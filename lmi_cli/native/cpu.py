"""What this processor can do, and how this process treats memory that it frees.

Imports the standard library only.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

_BFLOAT16 = frozenset(("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"))

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEEPING_BYTES = {_TRIM_THRESHOLD: 1 << 29, _TOP_PAD: 1 << 26, _MMAP_THRESHOLD: 1 << 25}
_RETURNING_BYTES = {_MMAP_THRESHOLD: 1 << 17}


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed large tensors for the next ones.

    By default it may return a few megabytes to the system after every layer, only to ask for them
    again; fresh pages can then cost more than the arithmetic done on them.
    """
    _set_limits(_KEEPING_BYTES)


def return_freed_memory() -> None:
    """Let the C library return the memory of a freed tensor to the system at once.

    Otherwise, of many tensors that come and go while others stay, half as much again can be left in
    gaps that fit nothing.
    """
    _set_limits(_RETURNING_BYTES)


def _set_limits(limits: Mapping[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, limit in limits.items():
            mallopt(parameter, limit)


def bound_active_waiting(*, in_c: bool) -> None:
    """Let idle threads of torch sleep soon; has an effect only before torch is imported.

    By default OpenMP lets them wait actively for milliseconds, on processors that other programs
    or our own threads need. Where torch computes everything, a fraction of a millisecond pays off.

    Args:
        in_c: Whether the library in C is expected to compute.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000" if in_c else "10000")


def computes_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 here instead of emulating it.

    ``ATEN_CPU_CAPABILITY`` in the environment can keep torch from using some instructions.
    """
    allowed = os.environ.get("ATEN_CPU_CAPABILITY", "avx512").lower()
    return allowed.startswith("avx512") and features() >= _BFLOAT16


def features() -> frozenset[str]:
    """Extensions of the processor's instruction set, as Linux names them; empty elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as lines:  # long where cores are many
            named = (line.partition(":")[2] for line in lines if line.startswith("flags"))
            return frozenset(next(named, "").split())
    except OSError:
        return frozenset()
