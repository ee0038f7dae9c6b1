"""Hashes of documents, by which answers about other documents are told from those about these."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.files import EvalTask

_PIECE = 1 << 20


class DocumentHashes:
    """Hashes of documents; each is read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, task: EvalTask) -> str:
        """SHA-256 of the records of a task and of all documents that they name.

        Raises:
            NoInputError: A document cannot be read.
        """
        named = dict.fromkeys(path for item in task.items for path in item.documents)
        found = sha256(task.sha256.encode())
        for path in named:
            if path not in self._known:
                self._known[path] = _hash_of(Path(path))
            found.update(self._known[path].encode())
        return found.hexdigest()


def _hash_of(path: Path) -> str:
    """The hash of a file, or of all files in a folder but hidden ones, with their names."""
    found = sha256()
    try:
        path.stat()
        for each in _files(path):
            if path.is_dir():
                found.update(os.fsencode(each.relative_to(path)) + b"\0")
            if each.is_file():  # a pipe would give its content only once
                content = sha256()
                with each.open("rb") as file:
                    while piece := file.read(_PIECE):
                        content.update(piece)
                found.update(content.digest())
    except OSError as error:
        raise NoInputError(f"{error.filename or path}: {error.strerror or error}") from None
    return found.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for each in sorted(path.iterdir()):
        if not each.name.startswith("."):
            yield from [each] if each.is_symlink() else _files(each)
