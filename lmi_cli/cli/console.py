"""The two streams: results on stdout, everything else on stderr; and what may reach a terminal."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from rich.console import Console

from lmi_cli.errors import ResourceError

# Characters that a terminal acts on: C0 but tab and line feed, DEL, C1, and the marks that reorder
# text (bidi controls) or hide in it.
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
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ACTING}


def sanitize(text: str) -> str:
    """Text with every character that a terminal would act on made visible."""
    return text.translate(_VISIBLE)


def one_line(text: str) -> str:
    """The same, with line feeds made visible too: for paths and messages."""
    return sanitize(text).replace("\n", "\\n").replace("\t", "\\t")


def error_console() -> Console:
    """A console on stderr that takes text as it is: no markup, no emoji, no guessing."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Output:
    """Where the result goes: stdout, or a file that exists complete or not at all.

    Args:
        path: The file, or None for stdout.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._parts: list[str] = []
        self._ended = True

    def write(self, text: str) -> None:
        """Add text; on stdout it shows at once.

        Raises:
            BrokenPipeError: The reader of stdout is gone.
        """
        if not text:
            return
        self._ended = text.endswith("\n")
        if self._path is not None:
            self._parts.append(text)
            return
        stream = sys.stdout
        _write_whole(stream, sanitize(text) if stream.isatty() else text)
        stream.flush()

    def end_line(self) -> None:
        """End the line, unless it has just been ended."""
        if not self._ended:
            self.write("\n")

    def close(self) -> None:
        """Put the file in place.

        Raises:
            ResourceError: It cannot be written.
        """
        if self._path is not None:
            write_file(self._path, "".join(self._parts).encode("utf-8", "replace"))


def _write_whole(stream: TextIO, text: str) -> None:
    """Write text that the stream's encoding may not know; what it lacks is spelled out."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it exists complete or not at all.

    Raises:
        ResourceError: It cannot be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        reason = error.strerror or str(error)
        raise ResourceError(f"{path} cannot be written: {reason}") from error
