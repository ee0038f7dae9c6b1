"""Stream the files of a folder in a stable order, with a reason for each that is not to be read.

Imports the standard library, pathspec and this package. Symbolic links are never followed, so
there are no loops and no way out of the folder.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from lmi_cli.sources import git, reasons, secret_files
from lmi_cli.sources.ignore import IgnoreRules
from lmi_cli.sources.input import reason_of, require_regular
from lmi_cli.sources.options import ReadOptions
from lmi_cli.sources.reasons import UnreadableError

VCS_FOLDERS = frozenset({".git", ".hg", ".svn", ".jj", "CVS"})
LOCK_FILES = frozenset(
    {
        "Cargo.lock",
        "Gemfile.lock",
        "Pipfile.lock",
        "bun.lock",
        "bun.lockb",
        "composer.lock",
        "deno.lock",
        "flake.lock",
        "go.sum",
        "mix.lock",
        "npm-shrinkwrap.json",
        "package-lock.json",
        "packages.lock.json",
        "pdm.lock",
        "pixi.lock",
        "pnpm-lock.yaml",
        "poetry.lock",
        "pubspec.lock",
        "uv.lock",
        "yarn.lock",
    }
)
MINIFIED_SUFFIXES = (".min.js", ".min.css", ".min.mjs", ".js.map", ".css.map", ".mjs.map")


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a folder that is left out as a whole; ``reason`` is None if it is to be read."""

    path: Path
    reason: str | None = None


def walk(root: Path, options: ReadOptions) -> Iterator[Found]:
    """Yield the contents of a folder, ordered by the bytes of the path below it.

    In a git work tree the files are those of ``git ls-files -co --exclude-standard``; elsewhere, or
    without git, the .gitignore files are read here, with the same result except for files that are
    tracked although they are ignored.
    """
    rules = _Rules(options)
    listing = git.list_files(root) if options.gitignore else None
    if listing is None:
        entries = _list_tree(root, options.gitignore, rules.closes)
    else:
        entries = _list_git(root, listing)
    left_out = ""
    for relative, reason in entries:
        if left_out and relative.startswith(left_out):
            continue
        path = root / relative
        folder, why = rules.folder_left_out(relative)
        if folder:
            left_out = folder
            yield Found(root / folder, why)
            continue
        yield Found(path, reason or rules.file_left_out(path, relative))


def _list_git(
    root: Path, listing: Iterator[tuple[str, str | None]]
) -> Iterator[tuple[str, str | None]]:
    for relative, reason in listing:
        path = root / relative
        if reason is None and path.is_dir() and not path.is_symlink():
            yield relative.rstrip("/"), reasons.REPOSITORY
        elif reason is not None or os.path.lexists(path):  # tracked files may be deleted
            yield relative, reason


def _list_tree(
    root: Path, gitignore: bool, closes: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, str | None]]:
    """Walk without git, with an explicit stack, because folders may be nested thousands deep."""
    stack = [_scan(root, "", IgnoreRules.at(root) if gitignore else None)]
    while stack:
        for relative, reason, rules in stack[-1]:
            if reason is None and relative.endswith("/") and not closes(relative):
                inner = rules.enter(root / relative, relative) if rules is not None else None
                stack.append(_scan(root, relative, inner))
                break
            yield relative, reason
        else:
            stack.pop()


def _scan(
    root: Path, folder: str, rules: IgnoreRules | None
) -> Iterator[tuple[str, str | None, IgnoreRules | None]]:
    try:
        with os.scandir(root / folder) as entries:
            names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
    except OSError as error:
        yield folder.rstrip("/") or ".", reason_of(error), rules
        return
    for name in sorted(names, key=os.fsencode):
        relative = folder + name
        if name.rstrip("/") in VCS_FOLDERS:
            yield relative, reasons.HIDDEN, rules
        elif rules is not None and rules.ignores(relative):
            yield relative, reasons.IGNORED, rules
        else:
            yield relative, None, rules


class _Rules:
    """Leaves files out by name, pattern or size, however they were listed."""

    def __init__(self, options: ReadOptions) -> None:
        self._include = _spec(options.include)
        self._exclude = _spec(options.exclude)
        self._max_bytes = options.max_file_size
        self._include_secrets = options.include_secrets

    def closes(self, folder: str) -> bool:
        """Whether a folder, given with a slash at its end, is left out."""
        return bool(self.folder_left_out(f"{folder}-")[0])

    def folder_left_out(self, relative: str) -> tuple[str, str]:
        """The outermost folder on a path that is left out, with its slash, and the reason."""
        for parent in reversed(PurePosixPath(relative).parents[:-1]):
            if parent.name.startswith("."):
                return f"{parent}/", reasons.HIDDEN
            if self._exclude is not None and self._exclude.match_file(f"{parent}/"):
                return f"{parent}/", reasons.EXCLUDED
        return "", ""

    def file_left_out(self, path: Path, relative: str) -> str | None:
        """The reason why a file, or a folder that was not entered, is not read; None to read it."""
        name = path.name
        kind = secret_files.by_name(name)
        if kind is not None and not self._include_secrets:
            return reasons.secret(kind)
        # Asked for, a secret may be hidden; and a template is there to be read.
        asked = kind is not None or secret_files.is_environment_template(name)
        if name.startswith(".") and not asked:
            return reasons.HIDDEN
        if self._exclude is not None and self._exclude.match_file(relative):
            return reasons.EXCLUDED
        if self._include is not None:
            if not self._include.match_file(relative):
                return reasons.NOT_INCLUDED
        elif name in LOCK_FILES:
            return reasons.LOCK_FILE
        elif name.endswith(MINIFIED_SUFFIXES):
            return reasons.MINIFIED
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                return reasons.LINK
            require_regular(status.st_mode)
        except OSError as error:
            return reason_of(error)
        except UnreadableError as error:
            return error.reason
        if self._max_bytes is not None and status.st_size > self._max_bytes:
            return f"too large ({status.st_size:,} bytes)"
        return None


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec | None:
    return GitIgnoreSpec.from_lines(patterns) if patterns else None
