"""Cached model folders that are either complete and verified, or treated as absent.

An entry is a folder whose manifest, written last, holds the size and sha256 of every other file. It
is built beside its final place and renamed into it, so a reader sees the whole entry or none.
Imports the standard library, filelock and ``disk``.
"""

import atexit
import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from lmi_cli.disk import cache_folder, sync_folder, write_atomically
from lmi_cli.errors import ResourceError

# Must be raised with every change to the files that a conversion writes, to rebuild older entries.
SCHEMA = 4
MANIFEST = "lmi-manifest.json"
# Files up to this size are hashed at every start; 3 MB of tokenizer take about 3 ms.
SMALL_FILE_BYTES = 16 * 2**20
_MANIFEST_LIMIT_BYTES = 2**20


class ReportBytes(Protocol):
    """Receives the progress of a download or a conversion."""

    def __call__(self, done_bytes: int, total_bytes: int | None, what: str) -> None:
        """Take one report: bytes done, bytes in total if known, and what is being done."""


def report_nothing(done_bytes: int, total_bytes: int | None, what: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Root:
    """The folder that holds the entries, and what the user should know about it."""

    folder: Path
    notes: tuple[str, ...] = ()


def writable_root() -> Root:
    """Return the models folder of the cache, or a temporary one if that cannot be written."""
    folder = cache_folder()
    if folder is None:
        return Root(
            _temporary_models(), ("no home folder: the model is not cached; set LMI_CACHE_DIR",)
        )
    models = folder / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
        probe = models / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        note = f"{models} cannot be written ({reason}): the model is not cached; set LMI_CACHE_DIR"
        return Root(_temporary_models(), (note,))
    return Root(models)


@cache
def _temporary_models() -> Path:
    """Return a models folder that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="lmi-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sha256_file(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file as hexadecimal, reporting the bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            done += len(block)
            if report is not None:
                report(done)
    return digest.hexdigest()


def problem(folder: Path, identity: str | None = None, *, full: bool = False) -> str | None:
    """Return what is wrong with an entry, or None if it may be used.

    Every start checks the manifest, the set of files, all sizes, and the sha256 of every file up to
    `SMALL_FILE_BYTES`. A larger file, which means weights, is hashed again only if its modification
    time is not the one recorded when it was last verified; so weights altered by something that
    keeps both size and time are found only with ``full``.

    Args:
        folder: The entry.
        identity: The identity that the entry must have; None accepts any.
        full: Hash the large files as well.
    """
    try:
        manifest = _read_manifest(folder)
        if identity is not None and manifest["identity"] != identity:
            return "it belongs to another model"
        files: dict[str, dict[str, Any]] = manifest["files"]
        # A loader may pick up a file that was not written here, so such a file counts as damage.
        present = {p.name for p in folder.iterdir() if not p.name.startswith(".")} - {MANIFEST}
        if present != set(files):
            return f"files differ from its manifest: {', '.join(sorted(present ^ set(files)))}"
        verified_anew = False
        for name, wanted in files.items():
            path = folder / name
            status = path.stat()
            if not path.is_file() or path.is_symlink() or status.st_size != wanted["size"]:
                return f"{name} has the wrong size"
            touched = status.st_mtime_ns != wanted["mtime_ns"]
            if full or touched or status.st_size <= SMALL_FILE_BYTES:
                if sha256_file(path) != wanted["sha256"]:
                    return f"{name} has the wrong sha256"
                if touched and status.st_size > SMALL_FILE_BYTES:
                    wanted["mtime_ns"] = status.st_mtime_ns
                    verified_anew = True
        if verified_anew:
            with contextlib.suppress(OSError):  # a read-only cache is hashed again next time
                write_atomically(folder / MANIFEST, _dump(manifest))
    except FileNotFoundError:
        return "it is incomplete"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an entry, or None if it cannot be read."""
    try:
        return _read_manifest(folder)
    except (OSError, ValueError):
        return None


def build(
    folder: Path,
    identity: str,
    fill: Callable[[Path, Path], None],
    *,
    source: str,
    progress: ReportBytes = report_nothing,
) -> None:
    """Build an entry unless a sound one is there, replacing a damaged one.

    Args:
        folder: Where the entry belongs; its parent exists and can be written.
        identity: The identity of its contents, checked whenever the entry is used.
        fill: Called with the folder to fill and a scratch folder that is deleted afterwards.
        source: Where the entry comes from, for ``lmi models``.
        progress: Receives a report if another process is building the same entry.

    Raises:
        ResourceError: The disk is full.
    """
    with _locked(folder, progress) as alone:
        if problem(folder, identity) is None:
            return
        if alone:
            for left_over in folder.parent.glob(f".{folder.name}.*.partial"):
                shutil.rmtree(left_over, ignore_errors=True)
        work = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
        fresh, scratch = work / "model", work / "scratch"
        try:
            fresh.mkdir(parents=True)
            scratch.mkdir()
            fill(fresh, scratch)
            _seal(fresh, identity, source)
            _publish(fresh, folder, identity)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ResourceError(
                    f"no space left on the disk of {folder.parent}",
                    hint="free some space, or set LMI_CACHE_DIR to a folder on another disk",
                ) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def discard(folder: Path) -> int:
    """Delete an entry and return the bytes freed. It is renamed first, so it vanishes at once."""
    freed = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    doomed = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return freed


def _publish(fresh: Path, folder: Path, identity: str) -> None:
    """Rename a finished folder into place; where locks do not work, the first one wins."""
    if problem(folder, identity) is None:
        return
    if folder.exists():
        with contextlib.suppress(FileNotFoundError):
            discard(folder)
    try:
        fresh.rename(folder)
    except OSError:
        if problem(folder, identity) is not None:
            raise
    sync_folder(folder.parent)


def _seal(folder: Path, identity: str, source: str) -> None:
    """Flush every file to disk, then write the manifest that makes the entry complete."""
    files: dict[str, dict[str, Any]] = {}
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.iterdir()):
        path.chmod(mode)  # safetensors makes its files private, which a shared cache cannot use
        with path.open("rb") as file:
            os.fsync(file.fileno())
        status = path.stat()
        files[path.name] = {
            "size": status.st_size,
            "sha256": sha256_file(path),
            "mtime_ns": status.st_mtime_ns,
        }
    manifest = {"schema": SCHEMA, "identity": identity, "source": source, "files": files}
    write_atomically(folder / MANIFEST, _dump(manifest))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise ValueError("the manifest is too large")
    try:
        manifest = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("the manifest is nested too deeply") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError("the manifest has another schema")
    return manifest


def _dump(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


@contextlib.contextmanager
def _locked(folder: Path, progress: ReportBytes) -> Iterator[bool]:
    """Hold the lock of an entry, so that two processes do not download the same model.

    Yields whether the lock is held; some file systems do not support locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock")
    held = False
    try:
        lock.acquire(timeout=0)
        held = True
    except Timeout:
        progress(0, None, "waiting for another lmi process to prepare this model")
        lock.acquire(poll_interval=0.2)
        held = True
    except (NotImplementedError, OSError):
        pass  # then both do the work, and the first rename wins
    try:
        yield held
    finally:
        if held:
            lock.release()
