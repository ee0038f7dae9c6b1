"""How this process computes on the CPU: what multiplies, and what happens to freed memory."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

# Parameters of mallopt, from malloc.h of the GNU C library, and our values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = (-1, 1 << 29), (-2, 1 << 26), (-3, 1 << 25)


@contextmanager
def linear_layers(tokens: int, device: torch.device) -> Iterator[None]:
    """Compute linear layers with the faster of torch's two libraries.

    For one token in bfloat16, oneDNN reaches a third of the memory's bandwidth and torch's own
    kernel nearly all of it. For more tokens, and for attention, oneDNN is the faster one.

    Args:
        tokens: How many go in at once.
        device: Where the layers are.
    """
    if tokens == 1 and device.type == "cpu" and IS_X86 and torch.backends.mkldnn.enabled:
        with _onednn(False):
            yield
    else:
        yield


@contextmanager
def attention() -> Iterator[None]:
    """Undo :func:`linear_layers`, within it, while attention is computed."""
    if _switched_off:
        with _onednn(True):
            yield
    else:
        yield


_switched_off = False


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    global _switched_off
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]
    _switched_off = not enabled
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = not enabled  # type: ignore[assignment]
        _switched_off = enabled


def keep_freed_memory() -> None:
    """Let the C library keep what large tensors give back, for the next ones.

    By default it may return a few megabytes to the system after every layer, only to ask for them
    again; fresh pages can then cost more than the arithmetic done in them.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD):
            mallopt(parameter, value)


def computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself instead of emulating it."""
    capable = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return capable and "avx512_bf16" in features()


def features() -> frozenset[str]:
    """Extensions of the processor's instruction set, as Linux names them; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(named, "").split())
