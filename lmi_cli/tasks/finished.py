"""What has been written about the parts of a document, kept in a file until the summary is done.

Imports the standard library only.
"""

import json
from pathlib import Path
from typing import Any

_FORMAT = "lmi parts 1"


class FinishedParts:
    """Sentences by part, in a file with a JSON object on each line.

    Args:
        path: The file; None keeps nothing.
        identity: Of the document, the model and all options; a file with another one is replaced.

    Attributes:
        parts: Sentences by number of the part.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path = path
        self.parts: dict[int, list[str]] = {}
        header = json.dumps({"format": _FORMAT, "identity": identity})
        if path is None:
            return
        lines = _lines(path)
        if lines[:1] == [header]:
            for line in lines[1:]:
                if (found := _part(line)) is None:
                    break  # the last line, where the run was interrupted
                self.parts[found[0]] = found[1]
        # What was read back is written again, so that no torn line stays in the middle.
        text = "".join(f"{line}\n" for line in [header, *map(_line, self.parts.items())])
        path.write_text(text, encoding="utf-8")

    def add(self, number: int, said: list[str]) -> None:
        """Keep the sentences about a part."""
        self.parts[number] = said
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line((number, said)) + "\n")

    def remove(self) -> None:
        """Remove the file, as the summary is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _line(item: tuple[int, list[str]]) -> str:
    return json.dumps({"part": item[0], "said": item[1]})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _part(line: str) -> tuple[int, list[str]] | None:
    try:
        item: Any = json.loads(line)
        number, said = item["part"], item["said"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not (isinstance(number, int) and isinstance(said, list)):
        return None
    return (number, said) if all(isinstance(each, str) for each in said) else None
