"""Programs and libraries of the kernels with a slip in them.

Only what the slip can change is compiled for it: the other sources are compiled once.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmi_cli.native import compiling

_INCLUDED = re.compile(r'^#include "(.*)"', re.MULTILINE)


class Slip(NamedTuple):
    """A file, what stands there, and what stands there instead."""

    file: str
    old: str
    new: str


class SlipCompiler:
    """Compiles the kernels again and again, each time with another slip.

    Args:
        folder: For what is compiled without one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[tuple[object, ...], Path] = {}

    def build(
        self,
        slip: Slip,
        program: Path,
        compiler: Sequence[str],
        flags: Sequence[str],
        more: Sequence[Path] = (),
    ) -> None:
        """Compile ``program`` from the kernels and ``more`` sources; its folder must be empty."""
        sources = (*compiling.SOURCES, *more)
        for path in (*compiling.SOURCES, *compiling.FOLDER.glob("*.h")):
            text = path.read_text()
            if path.name == slip.file:
                assert slip.old in text
                text = text.replace(slip.old, slip.new)
            (program.parent / path.name).write_text(text)
        objects = []
        for source in sources:
            if source in more:  # what it computes plainly takes longer at -O0 than compiling it
                flags = (*flags, "-O1")
            if slip.file in _ingredients(source.name, source.parent):
                here = program.parent / source.name
                changed = here if here.exists() else source
                made = program.parent / f"{source.stem}.o"
                _compile(compiler, flags, changed, made, program.parent)
            else:
                key = (*compiler, *flags, source)
                if key not in self._objects:
                    made = self._folder / f"{len(self._objects)}.o"
                    _compile(compiler, flags, source, made, compiling.FOLDER)
                    self._objects[key] = made
                made = self._objects[key]
            objects.append(str(made))
        command = [*compiler, *flags, *objects, "-o", str(program), "-lm"]
        subprocess.run(command, check=True, timeout=300)


def _compile(
    compiler: Sequence[str], flags: Sequence[str], source: Path, to: Path, headers: Path
) -> None:
    command = [*compiler, *flags, "-c", f"-I{headers}", str(source), "-o", str(to)]
    subprocess.run(command, check=True, timeout=300)


def _ingredients(name: str, folder: Path) -> set[str]:
    """A file, and all of ours that it includes."""
    found = {name}
    for included in _INCLUDED.findall((folder / name).read_text()):
        inside = folder if (folder / included).exists() else compiling.FOLDER
        found |= _ingredients(included, inside)
    return found
