"""Compile the library in C into this folder: when lmi is installed, and by hand.

``python -m lmi_cli.native.compiling`` does it by hand. Beside the library stands a manifest with
the checksums of the library and of everything it was made from, so that a damaged or outdated
library is recognised before it is opened; ``sha256sum -c`` reads it too. Imports the standard
library only, since installing lmi imports this module.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "kernels.so"
MANIFEST = "kernels.sha256"
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
_INGREDIENTS = (*SOURCES, *sorted(FOLDER.glob("*.h")), Path(__file__))

FLAGS = (
    "-O3", "-pthread", "-fPIC", "-shared", "-fno-math-errno",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
    "-mavx512vnni", "-mfma",
)  # fmt: skip
_COMPILERS = ("cc", "gcc", "clang")
_LIMIT_S = 120


class CannotCompileError(Exception):
    """The library cannot be compiled here; the message says why."""


def is_supported() -> bool:
    """Whether there is code for the operating system and the kind of processor."""
    machine = platform.machine().lower()
    return sys.platform.startswith("linux") and machine in ("x86_64", "amd64")


def compile_library(folder: Path = FOLDER, flags: Sequence[str] = FLAGS) -> Path:
    """Compile the library into a folder; one that is there is replaced once this has succeeded.

    Raises:
        CannotCompileError: There is no code for this machine, no compiler, or it failed.
        OSError: The folder cannot be written.
    """
    if not is_supported():
        raise CannotCompileError("there is no code for this kind of machine")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise CannotCompileError("there is no C compiler")
    with tempfile.TemporaryDirectory(prefix=".kernels-", dir=folder) as name:
        library, manifest = Path(name, LIBRARY), Path(name, MANIFEST)
        _compile(compiler, flags, library)
        manifest.write_text("".join(f"{_digest(p)}  {p.name}\n" for p in (library, *_INGREDIENTS)))
        library.replace(folder / LIBRARY)
        manifest.replace(folder / MANIFEST)
    return folder / LIBRARY


def changed_since(folder: Path) -> list[str]:
    """Names of the files that are not those of the manifest: the library, or what it is made from.

    Raises:
        OSError: There is no library.
    """
    listed: dict[str, str] = {}
    for line in (folder / MANIFEST).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    current = {path.name: _digest(path) for path in (folder / LIBRARY, *_INGREDIENTS)}
    return sorted({name for name, _ in current.items() ^ listed.items()})


def _compile(compiler: str, flags: Sequence[str], path: Path) -> None:
    name = Path(compiler).name
    command = [compiler, *flags, "-o", str(path), *map(str, SOURCES), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotCompileError(f"{name} took longer than {_LIMIT_S} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise CannotCompileError(f"{name} failed: {said or 'no message'}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Compile the library, and say where it is or why that is not possible."""
    try:
        sys.stdout.write(f"{compile_library()}\n")
    except (CannotCompileError, OSError) as error:
        sys.stderr.write(f"the library in C cannot be compiled: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
