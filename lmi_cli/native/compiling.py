"""Compile the library in C into this folder: when lmi is installed, and by hand.

``python -m lmi_cli.native.compiling`` does it by hand. There is a library for each instruction set.
Beside them stands a manifest with the checksums of the libraries and of everything they were made
from, so that a damaged or outdated library is recognised before it is opened; ``sha256sum -c``
reads it too. Imports the standard library and ``variants``, since installing lmi imports this.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmi_cli.native import variants
from lmi_cli.native.variants import Variant

FOLDER = Path(__file__).parent
"""Where the libraries are."""
MANIFEST = "kernels.sha256"
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
_INGREDIENTS = (*SOURCES, *sorted(FOLDER.glob("*.h")), Path(__file__), Path(variants.__file__))

FLAGS = (
    "-O3", "-pthread", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=fast",
    "-flax-vector-conversions",
)  # fmt: skip
_COMPILERS = ("cc", "gcc", "clang")
_LIMIT_S = 900


class CannotCompileError(Exception):
    """No library can be compiled here; the message says why."""


def compile_libraries(
    folder: Path | None = None,
    chosen: Sequence[Variant] | None = None,
    flags: Sequence[str] = FLAGS,
) -> dict[Variant, str]:
    """Compile the libraries into a folder; if this succeeds for any, they replace what is there.

    Args:
        folder: Where they go; by default, :data:`FOLDER`.
        chosen: For which instruction sets; by default, all those of this kind of machine.
        flags: For the compiler, besides those of the instruction set.

    Returns:
        What the compiler said of those that it cannot compile, where it can compile others.

    Raises:
        CannotCompileError: There is no code for this machine, no compiler, or it failed.
        OSError: The folder cannot be written.
    """
    folder = FOLDER if folder is None else folder
    wanted = variants.compilable() if chosen is None else chosen
    if not wanted:
        raise CannotCompileError("there is no code for this kind of machine")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise CannotCompileError("there is no C compiler")
    made, failed = [], {}
    with tempfile.TemporaryDirectory(prefix=".kernels-", dir=folder) as name:
        paths = {variant: Path(name, variant.file) for variant in wanted}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = {
                variant: pool.submit(_compile, compiler, (*flags, *variant.flags), path)
                for variant, path in paths.items()
            }
        for variant, done in running.items():
            if reason := done.result():
                failed[variant] = reason
            else:
                made.append(paths[variant])
        if not made:
            raise CannotCompileError(failed[wanted[-1]])
        manifest = Path(name, MANIFEST)
        manifest.write_text("".join(f"{_digest(p)}  {p.name}\n" for p in (*made, *_INGREDIENTS)))
        for path in (*made, manifest):
            path.replace(folder / path.name)
        for variant in failed:
            (folder / variant.file).unlink(missing_ok=True)
    return failed


def chosen() -> Variant | str:
    """The variant to use, or why there is none; see :func:`lmi_cli.native.variants.chosen`.

    Where the compiler could not compile the fastest, it is the fastest of the others.
    """
    best = variants.chosen()
    if isinstance(best, str) or variants.forced():
        return best
    return next((v for v in variants.runnable() if (FOLDER / v.file).exists()), best)


def changed_since(variant: Variant) -> list[str]:
    """Names of the files that are not those of the manifest: the library, or what it is made from.

    Raises:
        OSError: There is no library.
    """
    listed: dict[str, str] = {}
    for line in (FOLDER / MANIFEST).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if name == variant.file or name not in {other.file for other in variants.VARIANTS}:
            listed[name] = digest
    current = {path.name: _digest(path) for path in (FOLDER / variant.file, *_INGREDIENTS)}
    return sorted({name for name, _ in current.items() ^ listed.items()})


def fault(variant: Variant) -> str | None:
    """Why the library for an instruction set must not be opened; None if it is in order."""
    try:
        changed = changed_since(variant)
    except OSError:
        return "the library in C has not been compiled"
    if variant.file in changed:
        return "the library in C is damaged"
    if changed:
        return f"the library in C is out of date ({', '.join(changed[:3])})"
    return None


def will_compute() -> bool:
    """Whether there is a library for this processor that is in order, as far as its files tell."""
    variant = chosen()
    return not isinstance(variant, str) and fault(variant) is None


def _compile(compiler: str, flags: Sequence[str], path: Path) -> str | None:
    """Compile one library; return what went wrong."""
    name = Path(compiler).name
    command = [compiler, *flags, "-o", str(path), *map(str, SOURCES), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{name} took longer than {_LIMIT_S} s"
    if done.returncode == 0:
        return None
    # Compilers that crash say much more than what is wrong.
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    return f"{name} failed: {next((line for line in said if 'error: ' in line), said[0])}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Compile the libraries, and say where they are or why that is not possible."""
    try:
        failed = compile_libraries()
    except (CannotCompileError, OSError) as error:
        sys.stderr.write(f"the library in C cannot be compiled: {error}\n")
        return 1
    for variant in variants.compilable():
        if variant in failed:
            sys.stderr.write(f"{variant.name}: {failed[variant]}\n")
        else:
            sys.stdout.write(f"{FOLDER / variant.file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
