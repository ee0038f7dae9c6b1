"""Compile the library in C for this processor, once, into the cache folder.

May import torch, ``disk`` and the rest of this package.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from lmi_cli.disk import cache_folder, replacing
from lmi_cli.native import cpu, library

_FLAGS = (
    "-O3", "-pthread", "-fPIC", "-shared", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
    "-mavx512vnni", "-mfma",
)  # fmt: skip
_NEEDED = frozenset(
    ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni", "fma")
)
_LIMIT_S = 120

_computed_by = "torch"


def computed_by(dtype: torch.dtype, device: torch.device) -> str:
    """What computes: ``C``, or ``torch``, with a reason if dtype and device would allow C."""
    usual = dtype == torch.bfloat16 and device.type == "cpu"
    return _computed_by if usual else "torch"


def use_library() -> None:
    """Compute with the library in C, compiled on first use, if that is possible.

    ``LMI_NATIVE=0`` in the environment leaves the computing to torch.
    """
    global _computed_by
    try:
        library.use(_built())
    except _CannotError as reason:
        library.use(None)
        _computed_by = f"torch ({reason})"
    except (OSError, AttributeError) as error:
        library.use(None)
        _computed_by = f"torch (the library cannot be opened: {error})"
    else:
        _computed_by = "C"


class _CannotError(Exception):
    """The library cannot be built here; the message says why."""


def _built() -> Path:
    """The compiled library, from the cache or freshly built."""
    if os.environ.get("LMI_NATIVE") == "0":
        raise _CannotError("LMI_NATIVE is 0")
    if not (cpu.IS_X86 and sys.platform.startswith("linux") and cpu.computes_bfloat16()):
        raise _CannotError("the processor has no AVX512-BF16")
    if missing := _NEEDED - cpu.features():
        raise _CannotError(f"the processor has no {', '.join(sorted(missing))}")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    folder = cache_folder()
    if compiler is None or folder is None:
        raise _CannotError("no C compiler" if compiler is None else "no cache folder")
    digest = hashlib.sha256(" ".join((*_FLAGS, platform.machine())).encode())
    for source in (*library.HEADERS, *library.SOURCES):
        digest.update(source.read_bytes())
    path = folder / "native" / f"{digest.hexdigest()[:32]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replacing(path, private=True) as temporary:
        _compile(compiler, temporary)
    return path


def _compile(compiler: str, path: Path) -> None:
    name = Path(compiler).name
    command = [compiler, *_FLAGS, "-o", str(path), *map(str, library.SOURCES), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise _CannotError(f"{name} took longer than {_LIMIT_S} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _CannotError(f"{name} failed: {said[0] if said else 'no message'}")
