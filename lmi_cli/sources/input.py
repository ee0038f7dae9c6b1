"""One file or pipe, opened without trusting it. Imports only the standard library.

A file is read up to the size that it had when it was opened, so that reading one that keeps growing
ends.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from lmi_cli.sources.reasons import UnreadableError

HEAD_BYTES = 8192
CHUNK_BYTES = 65536
SPOOL_LIMIT_BYTES = 2 * 1024**3
KINDS_OF_FILE = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(mode: int) -> None:
    """Refuse everything that is not a regular file.

    Args:
        mode: ``st_mode`` of the file.

    Raises:
        UnreadableError: It is a pipe, a device, a socket, or the like.
    """
    if not stat.S_ISREG(mode):
        name = next((name for test, name in KINDS_OF_FILE if test(mode)), "special")
        hint = "; use - to read from a pipe" if stat.S_ISFIFO(mode) else ""
        raise UnreadableError(f"not a regular file: {name}{hint}")


class Input:
    """Bytes from one file or pipe, read once from the start.

    Attributes:
        name: File name or ``<stdin>``; no more than a hint about the content.
        head: The first bytes, at most ``HEAD_BYTES``, without consuming them.
        size_bytes: Size at the time of opening; None for a pipe.
        consumed_bytes: Bytes read by the caller so far.
    """

    def __init__(self, name: str, stream: BinaryIO, path: Path | None = None) -> None:
        self.name = name
        self._stream = stream
        self._path = path
        self._status = os.fstat(stream.fileno()) if path is not None else None
        self.size_bytes = self._status.st_size if self._status is not None else None
        self.consumed_bytes = 0
        self.head = self._read_raw(HEAD_BYTES)
        self._unread = self.head

    def _read_raw(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0 and (part := self._stream.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def read(self, count: int = CHUNK_BYTES) -> bytes:
        """Return the next ``count`` bytes; fewer near the end, none at the end."""
        if self.size_bytes is not None:
            count = min(count, self.size_bytes - self.consumed_bytes)
        data, self._unread = self._unread[:count], self._unread[count:]
        if len(data) < count:
            data += self._read_raw(count - len(data))
        self.consumed_bytes += len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """All bytes, in pieces of at most ``CHUNK_BYTES``."""
        while chunk := self.read():
            yield chunk

    @contextmanager
    def seekable(self) -> Iterator[tuple[IO[bytes], Path]]:
        """The whole input as a seekable file and its path; a pipe is copied to a temporary file.

        Raises:
            UnreadableError: A pipe holds more than ``SPOOL_LIMIT_BYTES``.
        """
        if self._path is not None:
            self._stream.seek(0)
            self.consumed_bytes = self.size_bytes or 0
            yield self._stream, self._path
            return
        with tempfile.NamedTemporaryFile(prefix="lmi-") as spool:
            for chunk in self.chunks():
                if self.consumed_bytes > SPOOL_LIMIT_BYTES:
                    raise UnreadableError("too large to be read from a pipe: save it to a file")
                spool.write(chunk)
            spool.flush()
            spool.seek(0)
            yield spool, Path(spool.name)

    def changes(self) -> list[str]:
        """How the file has changed since it was opened, one sentence each."""
        if self._status is None:
            return []
        now = os.fstat(self._stream.fileno())
        before = self._status.st_size
        if now.st_size > before:
            return [f"grew while it was read: only its first {before:,} bytes were used"]
        if now.st_size < before:
            return [f"shrank while it was read: from {before:,} to {now.st_size:,} bytes"]
        if now.st_mtime_ns != self._status.st_mtime_ns:
            return ["changed while it was read"]
        return []


@contextmanager
def open_file(path: Path, *, follow: bool) -> Iterator[Input]:
    """Open a regular file for reading; never blocks on a pipe or a device.

    Args:
        path: The file.
        follow: Whether a symbolic link is followed. False for files that a walk found.

    Raises:
        UnreadableError: It is not a regular file, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        # Opening some devices has side effects, so check first; the second check, of the
        # descriptor, catches a file that was swapped in between.
        require_regular(path.stat(follow_symlinks=follow).st_mode)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise UnreadableError(reason_of(error)) from error
    with os.fdopen(descriptor, "rb") as stream:
        require_regular(os.fstat(descriptor).st_mode)
        yield Input(path.name, stream, path)


def reason_of(error: OSError) -> str:
    """The reason for an error of the operating system, in its own words."""
    return f"cannot be read: {(error.strerror or type(error).__name__).lower()}"
