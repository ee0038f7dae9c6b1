"""Which files of records ``lmi eval`` is to read: those that are named, and those of tasks."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmi_cli.cli.session import piped_source
from lmi_cli.errors import NoInputError, UsageError

if TYPE_CHECKING:
    from lmi_cli.evaluation.forms.base import RecordFile

_ENDINGS = (".jsonl", ".json")
_PLACES = ("{name}.jsonl", "data/{name}.jsonl", "{name}/validation.jsonl", "{name}.json")
"""Where the file of a task is in a folder: in those of LongBench, L-Eval, InfiniteBench, RULER."""


def record_files(
    arguments: Sequence[str], data: Path | None, named: str | None
) -> "Iterator[tuple[RecordFile, bytes]]":
    """The files with their contents, one by one; ``named`` is the task that the user named.

    Raises:
        UsageError: There is no such file, folder or task.
        NoInputError: A file cannot be read, or a folder has none.
    """
    from lmi_cli.evaluation.files import read_bytes
    from lmi_cli.evaluation.forms.base import RecordFile

    arguments = arguments or [piped_source()]
    try:
        paths = [path for text in arguments for path in _paths(text, data)]
    except OSError as error:
        raise NoInputError(f"{error.filename}: {error.strerror or error}") from None
    seen: set[str] = set()
    for path in paths:
        real = "-" if path is None else os.path.realpath(path)
        if real in seen:
            raise UsageError(f"{path or '- (standard input)'} is named more than once")
        seen.add(real)
    return ((RecordFile(path, named), read_bytes(path)) for path in paths)


def _paths(text: str, data: Path | None) -> Iterator[Path | None]:
    if text == "-":
        yield None
        return
    path = Path(text)
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix == _ENDINGS[0])
        if not found:
            raise NoInputError(f"{path}: no file of records (*{_ENDINGS[0]}) in this folder")
        yield from found
        return
    if os.path.lexists(path):
        yield path
        return
    if data is not None and path.name == text:
        for place in _PLACES:
            if (found_path := data / place.format(name=text)).is_file():
                yield found_path
                return
        raise UsageError(f"there is no file of the task {text} in {data}")
    raise UsageError(
        f"no such file: {text}",
        hint="name a file of records; nothing is downloaded, so tasks need --data FOLDER",
    )
