"""What has been written about the parts of a document, kept in a file until the summary is done.

Imports the standard library and ``errors``.
"""

import json
from pathlib import Path
from typing import Any

from lmi_cli.errors import ResourceError, UsageError

_FORMAT = "lmi parts 1"
_BEGINS = '{"format": "lmi parts'


class FinishedParts:
    """Sentences by part, in a file with a JSON object on each line.

    Args:
        path: The file; None keeps nothing.
        identity: Of the document, the model and all options; a file of another run is replaced.

    Attributes:
        parts: Sentences by number of the part.

    Raises:
        UsageError: There is something else under the name of the file.
        ResourceError: The file cannot be written.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path = path
        self.parts: dict[int, list[str]] = {}
        if path is None:
            return
        header = json.dumps({"format": _FORMAT, "identity": identity})
        lines = _lines(path)
        if lines[:1] == [header]:
            for line in lines[1:]:
                if (found := _part(line)) is None:
                    break  # the last line, where the run was interrupted
                self.parts[found[0]] = found[1]
        # What was read back is written again, so that no torn line stays in the middle.
        self._write("w", "".join(f"{line}\n" for line in [header, *map(_line, self.parts.items())]))

    def keep_only(self, count: int) -> None:
        """Forget parts beyond the first ``count``, which a damaged file may name."""
        self.parts = {number: said for number, said in self.parts.items() if 0 <= number < count}

    def add(self, number: int, said: list[str]) -> None:
        """Keep the sentences about a part.

        Raises:
            ResourceError: The file cannot be written.
        """
        self.parts[number] = said
        self._write("a", _line((number, said)) + "\n")

    def remove(self) -> None:
        """Remove the file, as the summary is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, mode: str, text: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"{self._path} cannot be written: {reason}") from error


def _line(item: tuple[int, list[str]]) -> str:
    return json.dumps({"part": item[0], "said": item[1]})


def _lines(path: Path) -> list[str]:
    """The lines of the file; none if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _in_the_way(path) from error
    if text and not text.startswith(_BEGINS):
        raise _in_the_way(path)
    return text.splitlines()


def _in_the_way(path: Path) -> UsageError:
    return UsageError(
        f"{path} is in the way: finished parts would be kept there until the summary is complete",
        hint="move it, or choose another name for the output",
    )


def _part(line: str) -> tuple[int, list[str]] | None:
    try:
        item: Any = json.loads(line)
        number, said = item["part"], item["said"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not (type(number) is int and isinstance(said, list)):
        return None
    return (number, said) if all(isinstance(each, str) for each in said) else None
