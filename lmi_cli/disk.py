"""The cache folder, small records kept in it, and files written atomically.

Imports the standard library, platformdirs and filelock.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# The largest records hold a tokenizer as JSON; checkpoints.validation accepts up to 256 MiB.
_RECORD_LIMIT_BYTES = 2**29

_NO_SPACE = ("No space left", "Disk quota", "File too large")


def cache_folder() -> Path | None:
    """Return the cache folder: ``LMI_CACHE_DIR``, ``LMI_HOME``, or the platform's usual place.

    Returns:
        An absolute path, or None if it depends on a home folder that is unknown.
    """
    for variable in ("LMI_CACHE_DIR", "LMI_HOME"):
        if value := os.environ.get(variable):
            try:
                return Path(value).expanduser().absolute()
            except RuntimeError:
                return None
    import platformdirs

    path = platformdirs.user_cache_path("lmi", appauthor=False)
    # Without a home folder, a literal "~" is left in the path.
    return path if path.is_absolute() else None


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file written there replaces ``path`` at the end.

    A reader sees the old file or the new one, never part of it. If the block raises, the old file
    stays and nothing is left behind. The temporary path is in a folder that only its owner can
    enter, so nobody else can open the file before it is complete.

    Args:
        path: The file to write. A symbolic link is replaced, not followed.
        private: Let only its owner read and write the file. Otherwise it gets the permissions of
            the file it replaces, or those of any new file.

    Yields:
        The temporary path; the block must write a file there.

    Raises:
        OSError: The file cannot be written or put into place.
    """
    folder = path.parent / f".lmi-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        mode = 0o600 if private else _mode_of(path, folder)
        temporary = folder / "file"
        yield temporary
        temporary.chmod(0o600)
        with temporary.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        # A library that is interrupted may leave files of its own beside the temporary one.
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(path.parent)


def is_full(error: BaseException) -> bool:
    """Whether an error of a library says that the disk, or the user's share of it, is full."""
    return any(reason in str(error) for reason in _NO_SPACE)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never part of it.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to add a line to, while no other process does so.

    Where the file system has no locks, nothing is kept from anything.

    Raises:
        OSError: The file cannot be opened.
    """
    from filelock import FileLock

    path.open("ab").close()  # where there is no folder, the lock would be waited for without end
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with contextlib.suppress(NotImplementedError):
        lock.acquire()
    try:
        with path.open("a+b") as file:
            yield file
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Record:
    """A small JSON object in the cache, kept from one run to the next.

    A record that is missing, stored under another key or damaged, by its checksum, counts as
    absent, and failing to write one is not an error: everything in a record can be determined
    again.

    Attributes:
        kind: Subfolder of the cache folder.
        key: What the record is about; it is stored in the record and compared when it is read.
    """

    kind: str
    key: str

    @property
    def path(self) -> Path | None:
        """The file of the record; None if there is no cache folder."""
        folder = cache_folder()
        if folder is None:
            return None
        digest = hashlib.sha256(self.key.encode("utf-8", "surrogateescape")).hexdigest()
        return folder / self.kind / f"{digest[:32]}.json"

    def read(self) -> dict[str, Any]:
        """Return the value written last; an empty object if there is none that is usable."""
        path = self.path
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if path is not None and path.stat().st_size <= _RECORD_LIMIT_BYTES:
                stored = json.loads(path.read_bytes())
                if isinstance(stored, dict) and stored.get("key") == self.key:
                    value = stored.get("value")
                    if isinstance(value, dict) and stored.get("sha256") == _sha256(value):
                        return value
        return {}

    def write(self, value: dict[str, Any]) -> bool:
        """Replace the value of the record.

        Args:
            value: A JSON object.

        Returns:
            False if the record is too large or cannot be written.
        """
        path = self.path
        record = {"key": self.key, "sha256": _sha256(value), "value": value}
        data = (json.dumps(record, indent=1) + "\n").encode()
        if path is None or len(data) > _RECORD_LIMIT_BYTES:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError:
            return False
        return True


def _sha256(value: dict[str, Any]) -> str:
    """A checksum of a JSON object, before it is written or after it is read back."""
    stored = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def _mode_of(path: Path, folder: Path) -> int:
    """Return the permissions for a file: those it has, or those of any new file in ``folder``."""
    if path.exists():
        return path.stat().st_mode & 0o777
    # The umask can be read only by changing it, for all threads.
    probe = folder / "probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode
