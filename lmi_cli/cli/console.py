"""Results on stdout, messages on stderr, with control characters made visible on a terminal.

Imports the standard library and ``disk``.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from lmi_cli.disk import write_atomically
from lmi_cli.errors import ResourceError, UsageError

# Characters that a terminal acts on: C0 except tab and line feed, DEL, C1, and the marks that
# reorder text (bidi controls) or hide in it.
_ACTING = {
    code
    for first, last in (
        (0x00, 0x08),
        (0x0B, 0x1F),
        (0x7F, 0x9F),
        (0x061C, 0x061C),
        (0x200E, 0x200F),
        (0x2028, 0x202E),
        (0x2066, 0x2069),
    )
    for code in range(first, last + 1)
}
_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ACTING}


def sanitize(text: str) -> str:
    """Escape every character that a terminal would act on."""
    return text.translate(_VISIBLE)


def one_line(text: str) -> str:
    """Escape line feeds and tabs as well, for paths and messages."""
    return sanitize(text).replace("\n", "\\n").replace("\t", "\\t")


def _sanitized_around_colours(text: str) -> str:
    pieces = _COLOUR.split(text)
    return "".join(piece if n % 2 else sanitize(piece) for n, piece in enumerate(pieces))


def mebibytes(count: int) -> str:
    """A number of bytes as text."""
    return f"{count / 2**20:,.0f} MiB"


def message(text: str) -> None:
    """Write one line to stderr; a closed stderr is not an error."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            _write_whole(sys.stderr, one_line(text) + "\n")
            sys.stderr.flush()


def open_missing_descriptors() -> None:
    """Open the null device in place of a standard stream that was closed before the start.

    Otherwise the next file to be opened would take its number, and stray output would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def has_colours() -> bool:
    """Whether stdout is a terminal that shows bold text, and the user has not forbidden it."""
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def can_show(text: str) -> bool:
    """Whether the encoding of stdout has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def columns(stream: TextIO | None) -> int | None:
    """Width of the terminal behind a stream; None if it is none."""
    try:
        if stream is None or not stream.isatty():
            return None
        return shutil.get_terminal_size().columns
    except (OSError, ValueError):
        return None


class Output:
    """The destination of a result: stdout (None), or a file that is written whole or not at all.

    Raises:
        UsageError: The path names a folder, or a file in a folder that does not exist.
        ResourceError: There is no permission to write it.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            require_writable(path)
        self._path = path
        self._parts: list[str] = []
        self._ended = True

    def write(self, text: str, *, coloured: bool = False) -> None:
        """Add text; on stdout it appears at once.

        Args:
            text: What to add.
            coloured: Whether escapes that set colours, made for :attr:`coloured`, are meant as such
                on a terminal, as those of :mod:`lmi_cli.cli.chart`.

        Raises:
            BrokenPipeError: The reader of stdout is gone.
            ResourceError: The device behind stdout is full.
        """
        if not text:
            return
        self._ended = text.endswith("\n")
        if self._path is not None:
            self._parts.append(text)
            return
        if sys.stdout is None:
            raise BrokenPipeError
        try:
            if sys.stdout.isatty():
                text = _sanitized_around_colours(text) if coloured else sanitize(text)
            _write_whole(sys.stdout, text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable("the output", error) from error

    @property
    def coloured(self) -> bool:
        """Whether what is written appears on a terminal that shows colours."""
        return self._path is None and has_colours()

    @property
    def columns(self) -> int | None:
        """Width of the terminal on which what is written appears; None if it is none."""
        return columns(sys.stdout) if self._path is None else None

    def write_marked(self, pieces: Iterable[tuple[str, bool]]) -> None:
        """Add pieces of text; on a terminal with colours, those with True are set off in bold."""
        bold = self.coloured
        for text, marked in pieces:
            if bold and marked and text and sys.stdout is not None:
                _write_whole(sys.stdout, f"\x1b[1m{sanitize(text)}\x1b[0m")
                self._ended = False
            else:
                self.write(text)

    def end_line(self) -> None:
        """End the line unless it has just been ended."""
        if not self._ended:
            self.write("\n")

    def close(self) -> None:
        """Write the file, if there is one; see :func:`write_file`."""
        if self._path is not None:
            write_file(self._path, "".join(self._parts).encode("utf-8", "replace"))


def _write_whole(stream: TextIO, text: str) -> None:
    """Write text, with escapes for characters that the stream's encoding lacks."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def require_writable(*paths: Path | None, sources: Iterable[str] = ()) -> None:
    """Check, before any work is done, that files can be written afterwards; None is no file.

    Args:
        paths: The files.
        sources: What is read, and so must not be replaced.

    Raises:
        UsageError: A path names a folder, or a file in a folder that does not exist; or two are the
            same file, of which what is written first would be lost; or one is a source.
        ResourceError: There is no permission to write one.
    """
    read = {os.path.realpath(source) for source in sources}
    seen = set[str]()
    for path in paths:
        if path is None:
            continue
        real = Path(os.path.realpath(path))
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file to write")
        if is_special(path):
            place = path
        else:
            place = real.parent
            if not place.is_dir():
                raise UsageError(f"{path} cannot be written: there is no folder {place}")
            if str(real) in seen:
                raise UsageError(
                    f"{path} is to be written twice", hint="give each option its own file"
                )
            if str(real) in read:
                raise UsageError(
                    f"{path} is read, so nothing else can be written there",
                    hint="name another file for the result",
                )
            seen.add(str(real))
        if not os.access(place, os.W_OK):
            raise ResourceError(f"{path} cannot be written: {real.parent} is read-only")


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    A symbolic link is kept and its target is written; a device or a pipe is written to directly.

    Raises:
        ResourceError: It cannot be written.
    """
    try:
        if is_special(path):
            path.write_bytes(data)
        else:
            write_atomically(Path(os.path.realpath(path)), data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(str(path), error) from error


def is_special(path: Path) -> bool:
    """Whether a path names a device or a pipe, which is written to directly."""
    return path.exists() and not path.is_file()


def _unwritable(what: str, error: OSError) -> ResourceError:
    return ResourceError(f"{what} cannot be written: {error.strerror or error}")
