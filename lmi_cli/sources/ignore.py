"""The rules of .gitignore files, one set per folder, the deepest that says something wins.

Imports only pathspec and the standard library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pathspec import GitIgnoreSpec

IGNORE_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that hold in one folder: its own behind those of the folders above it.

    Siblings never see each other's rules: each gets its own value from ``enter``.
    """

    layers: tuple[tuple[str, GitIgnoreSpec], ...]

    @classmethod
    def at(cls, root: Path) -> Self:
        """The rules of a folder where a walk starts: those of the work tree above it included."""
        top = next(
            (up for up in (root.resolve(), *root.resolve().parents) if (up / ".git").exists()), None
        )
        layers: list[tuple[str, GitIgnoreSpec]] = []
        if top is not None:
            chain = [up for up in reversed(root.resolve().parents) if up.is_relative_to(top)]
            # The walk's paths start at its root; for the folders above it they are made longer.
            layers += _layer(top / ".git" / "info" / "exclude", _above(root, top))
            for up in chain:
                layers += _layer(up / ".gitignore", _above(root, up))
        return cls((*layers, *_layer(root / ".gitignore", "")))

    def enter(self, folder: Path, relative: str) -> Self:
        """The rules inside a folder.

        Args:
            folder: The folder.
            relative: Its path from the root of the walk, with a slash at its end.
        """
        return type(self)((*self.layers, *_layer(folder / ".gitignore", relative)))

    def ignores(self, relative: str) -> bool:
        """Whether a path is ignored.

        Args:
            relative: The path from the root of the walk; a folder's has a slash at its end.
        """
        for base, spec in reversed(self.layers):
            path = base[1:] + relative if base.startswith("/") else relative[len(base) :]
            verdict = spec.check_file(path).include
            if verdict is not None:
                return verdict
        return False


def _above(root: Path, up: Path) -> str:
    """A base that stands for a folder above the root: a slash, then the way down to the root."""
    way = root.resolve().relative_to(up).as_posix()
    return "/" if way == "." else f"/{way}/"


def _layer(file: Path, base: str) -> list[tuple[str, GitIgnoreSpec]]:
    try:
        if not file.is_file() or file.is_symlink():
            return []
        with file.open("rb") as stream:
            text = stream.read(IGNORE_FILE_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    lines = text.removeprefix("\ufeff").split("\n")
    return [(base, GitIgnoreSpec.from_lines(line.removesuffix("\r") for line in lines))]
