"""How this process computes on the CPU: what multiplies, and what happens to freed memory."""

import ctypes
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lmi_cli.attention import native
from lmi_cli.models.entries import cache_folder

_X86 = platform.machine().lower() in ("x86_64", "amd64")

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
    if tokens == 1 and device.type == "cpu" and _X86 and torch.backends.mkldnn.enabled:
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


_FLAGS = (
    "-O3", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma",
)  # fmt: skip
_COMPILE_S = 120

_attention_by = "torch"


def attention_by(dtype: torch.dtype, device: torch.device) -> str:
    """What computes attention: ``native.c``, or ``torch``, with the reason where it could be."""
    usual = dtype == torch.bfloat16 and device.type == "cpu"
    return _attention_by if usual else "torch"


def use_native_attention() -> None:
    """Compute attention by the library in C, compiled on first use, where that is possible.

    ``LMI_NATIVE=0`` in the environment leaves it to torch.
    """
    global _attention_by
    try:
        native.use(_built())
    except _CannotError as reason:
        native.use(None)
        _attention_by = f"torch ({reason})"
    except OSError as error:
        native.use(None)
        _attention_by = f"torch (the library cannot be opened: {error})"
    else:
        _attention_by = native.SOURCE.name


def computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself instead of emulating it."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text(errors="replace")


class _CannotError(Exception):
    """The library cannot be built here; the message says why."""


def _built() -> Path:
    """The compiled library, from the cache or fresh."""
    if os.environ.get("LMI_NATIVE") == "0":
        raise _CannotError("LMI_NATIVE is 0")
    if not (_X86 and sys.platform.startswith("linux") and computes_bfloat16()):
        raise _CannotError("the processor has no AVX512-BF16")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    folder = cache_folder()
    if compiler is None or folder is None:
        raise _CannotError("no C compiler" if compiler is None else "no cache folder")
    content = native.SOURCE.read_bytes() + " ".join(_FLAGS).encode()
    path = folder / "native" / f"{hashlib.sha256(content).hexdigest()[:32]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        command = [compiler, *_FLAGS, "-o", str(temporary), str(native.SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, timeout=_COMPILE_S, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise _CannotError(f"{Path(compiler).name} failed: {said[0] if said else 'silently'}")
        temporary.replace(path)
    except subprocess.TimeoutExpired:
        raise _CannotError(f"{Path(compiler).name} took longer than {_COMPILE_S} s") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
