"""The rules of .gitignore files: one set per folder, and the deepest one that matches decides.

Imports only the standard library. As in git, a pattern applies to exactly the paths that it
matches; files below an ignored folder are left out because the folder is never entered.
Libraries that also match everything below a pattern differ from git as soon as a negation is
involved. Paths are compared as bytes, as git does, and in linear time, because the patterns come
with the documents.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

IGNORE_FILE_BYTES = 256 * 1024
PATTERN_BYTES = 1024
# A slash inside brackets does not separate segments.
SEGMENT = re.compile(rb"(?:\\.|\[[\^!]?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|[^/])*", re.S)
SEGMENT_PART = re.compile(
    rb"\\(.)|(\*+)|(\?)|\[(?=(\^|!)?(\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\])|(.)", re.S
)
CLASS_ITEM = re.compile(rb"\[:(\w+):\]|\\(.)|(.)", re.S)
CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"!-~",
    b"lower": b"a-z",
    b"print": b" -~",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b"\\s",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of a .gitignore file.

    Attributes:
        negated: Whether a match means that the path is not ignored.
        folders_only: Whether only folders match.
        anchored: Whether the whole path is matched, not just its last part.
        segments: A pattern for each part of the path; None stands for ``**``.
    """

    negated: bool
    folders_only: bool
    anchored: bool
    segments: tuple[re.Pattern[bytes] | None, ...]

    def matches(self, parts: list[bytes], is_folder: bool) -> bool:
        """Whether the pattern matches a path, given as its parts below the .gitignore's folder."""
        if self.folders_only and not is_folder:
            return False
        if not self.anchored:
            segment = self.segments[0]
            return segment is None or segment.fullmatch(parts[-1]) is not None
        return _match_parts(self.segments, parts)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that apply in one folder: its own, after those of the folders above it.

    Siblings never see each other's rules: each gets its own value from ``enter``.

    Attributes:
        layers: For each .gitignore file, from the top down: how many leading parts of a path to
            drop, and its patterns, the last one first.
        above: The path from the top of the work tree to where the walk starts.
    """

    layers: tuple[tuple[int, tuple[Pattern, ...]], ...]
    above: tuple[bytes, ...] = ()

    @classmethod
    def at(cls, root: Path) -> Self:
        """The rules of the folder where a walk starts, including those of the work tree around it.

        If the folder is itself ignored, only its own rules apply: naming it is a wish to read it.
        """
        here = root.resolve()
        top = next((up for up in (here, *here.parents) if (up / ".git").exists()), here)
        above = here.relative_to(top).parts
        rules = cls(_layer(0, top / ".git" / "info" / "exclude"), tuple(map(os.fsencode, above)))
        for depth, name in enumerate(above):
            rules = rules._add(depth, top.joinpath(*above[:depth]))
            here_rules = cls(rules.layers, rules.above[:depth])
            if here_rules.ignores(f"{name}/"):
                return cls(())._add(0, here)
        return rules._add(len(above), here)

    def enter(self, folder: Path, relative: str) -> Self:
        """The rules inside a folder.

        Args:
            folder: The folder.
            relative: Its path from the root of the walk, with a slash at its end.
        """
        return self._add(len(self.above) + relative.count("/"), folder)

    def ignores(self, relative: str) -> bool:
        """Whether a path is ignored, provided that the folder it is in is not.

        Args:
            relative: The path from the root of the walk; that of a folder ends in a slash.
        """
        parts = [*self.above, *os.fsencode(relative.rstrip("/")).split(b"/")]
        is_folder = relative.endswith("/")
        for depth, patterns in reversed(self.layers):
            for pattern in patterns:
                if pattern.matches(parts[depth:], is_folder):
                    return not pattern.negated
        return False

    def _add(self, depth: int, folder: Path) -> Self:
        layers = _layer(depth, folder / ".gitignore")
        return type(self)((*self.layers, *layers), self.above) if layers else self


def _layer(depth: int, file: Path) -> tuple[tuple[int, tuple[Pattern, ...]], ...]:
    try:
        if file.is_symlink() or not file.is_file():
            return ()
        with file.open("rb") as stream:
            text = stream.read(IGNORE_FILE_BYTES)
    except OSError:
        return ()
    patterns = tuple(parse(text))
    return ((depth, patterns[::-1]),) if patterns else ()


def parse(text: bytes) -> Iterator[Pattern]:
    """The patterns of a .gitignore file, in order; lines that can match nothing are left out."""
    for raw in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw.removesuffix(b"\r")
        if line.startswith(b"#"):
            continue
        # Trailing spaces do not count, unless a backslash escapes the first of them.
        stripped = line.rstrip(b" ")
        backslashes = len(stripped) - len(stripped.rstrip(b"\\"))
        line = stripped + line[len(stripped) :][: backslashes % 2]
        negated = line.startswith(b"!")
        line = line[negated:]
        folders_only = line.endswith(b"/")
        line = line[: len(line) - folders_only]
        anchored = b"/" in line
        line = line.removeprefix(b"/")
        if not line or len(line) > PATTERN_BYTES:
            continue
        try:
            segments = tuple(map(_segment, _split(line)))
        except ValueError:
            continue
        yield Pattern(negated, folders_only, anchored, segments)


def _split(line: bytes) -> Iterator[bytes]:
    place = 0
    while match := SEGMENT.match(line, place):
        yield match[0]
        place = match.end() + 1
        if place > len(line):
            return


def _segment(glob: bytes) -> re.Pattern[bytes] | None:
    """One part of a pattern as a regular expression, None for ``**``.

    Raises:
        ValueError: The part can match nothing.
    """
    if len(glob) > 1 and not glob.strip(b"*"):
        return None
    stretches = [b""]
    place = 0
    while place < len(glob):
        part = SEGMENT_PART.match(glob, place)
        if part is None or part[0] == b"\\":
            raise ValueError("a backslash at the end")
        place = part.end()
        escaped, stars, question, sign, inside, char = part.groups()
        if stars:
            stretches.append(b"")
        elif inside is not None:
            stretches[-1] += _char_class(sign is not None, inside)
            place += len(sign or b"") + len(inside) + 1
        elif question:
            stretches[-1] += b"."
        elif char == b"[":
            raise ValueError("an unclosed bracket")
        else:
            stretches[-1] += re.escape(escaped or char)
    # Each stretch between stars can settle for its first match, so nothing needs backtracking.
    first, *rest = stretches
    if not rest:
        return re.compile(first, re.S)
    *middle, last = rest
    found = b"".join(b"(?>.*?%s)" % stretch for stretch in middle)
    return re.compile(b"%s%s.*%s" % (first, found, last), re.S)


def _char_class(negated: bool, inside: bytes) -> bytes:
    """What stands in brackets, as a regular expression.

    A hyphen between two characters makes a range, unless the first ends another one. Of a range
    whose ends are in the wrong order, git takes the first.

    Raises:
        ValueError: The brackets can match nothing.
    """
    items = [match.groups() for match in CLASS_ITEM.finditer(inside)]
    body, place = b"", 0
    while place < len(items):
        name, *chars = items[place]
        low = chars[0] or chars[1]
        place += 1
        if name is not None:
            body += CLASSES.get(name, b"")
            continue
        if items[place : place + 1] == [(None, None, b"-")] and place + 1 < len(items):
            high = items[place + 1][1] or items[place + 1][2]
            if high is not None:
                place += 2
                body += re.escape(low) + (b"-" + re.escape(high) if low <= high else b"")
                continue
        body += re.escape(low)
    if not body and not negated:
        raise ValueError("brackets that match nothing")
    return b"[^%s]" % body if negated and body else b"[%s]" % body if body else b"."


def _match_parts(segments: tuple[re.Pattern[bytes] | None, ...], parts: list[bytes]) -> bool:
    """Match a path against segments; of several ``**``, only the latest is ever retried."""
    place = turn = 0
    retry: tuple[int, int] | None = None
    while place < len(parts):
        if turn < len(segments):
            segment = segments[turn]
            if segment is None:
                if turn == len(segments) - 1:
                    return True  # a ** at the end matches at least one part
                retry = (turn + 1, place)
                turn += 1
                continue
            if segment.fullmatch(parts[place]):
                place, turn = place + 1, turn + 1
                continue
        if retry is None:
            return False
        turn, place = retry[0], retry[1] + 1
        retry = (turn, place)
    return turn == len(segments)
