"""A file of results, one JSON object a line, by which an interrupted run goes on.

Imports the standard library and ``disk``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmi_cli.disk import appending
from lmi_cli.errors import ResourceError, UsageError

_BEGINNING = b'{"run": {'

Unit = Mapping[str, Any]
"""What tells one piece of work from the others of its run: a JSON object, as in
``{"length": 4096, "depth": 50.0, "trial": 0}``."""


class Journal:
    """Results of units of work, kept in a file as they come.

    A line of the file is ``{"run": {...}, "unit": {...}, "result": {...}}``. ``run`` says what
    results depend on beside the unit: model, method, options. A file may hold results of many runs;
    those of other runs are left alone. Of two results for a unit, the later one counts. A line that
    was not written to its end, or was damaged, is ignored, so that its unit is done again.

    Several processes may write to a file at the same time.

    Args:
        path: The file; None keeps nothing for later. It need not exist.
        run: What the results depend on, a JSON object.

    Attributes:
        results: Results of this run by :func:`key` of their unit, those of earlier starts included.
        damaged: Number of lines of the file that are no results.

    Raises:
        UsageError: The file is not one of results.
        ResourceError: The file cannot be read.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        self._path = path
        self._run: dict[str, Any] = json.loads(json.dumps(dict(run)))
        self.results: dict[str, dict[str, Any]] = {}
        self.damaged = 0
        self.read()

    def read(self) -> None:
        """Read the results that are in the file now, those of other processes included.

        Raises:
            UsageError: The file is not one of results.
            ResourceError: The file cannot be read.
        """
        if self._path is None:
            return
        try:
            if self._path.exists() and not self._path.is_file():  # a device may have no end
                raise UsageError(f"{self._path} is not a file of results", hint="name another file")
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResourceError(
                f"{self._path} cannot be read: {error.strerror or error}", hint="name another file"
            ) from None
        lines = [line for line in content.split(b"\n") if line.strip()]
        self.damaged = 0
        for line in lines:
            try:
                found = json.loads(line)
                run, unit, result = found["run"], found["unit"], dict(found["result"])
            except (ValueError, LookupError, TypeError, RecursionError):
                self.damaged += 1
                continue
            if run == self._run:
                self.results[key(unit)] = result
        # The very first line may have been torn.
        begun = content.startswith(_BEGINNING) or _BEGINNING.startswith(content)
        if lines and self.damaged == len(lines) and not begun:
            raise UsageError(f"{self._path} is not a file of results", hint="name another file")

    @property
    def damage(self) -> str | None:
        """What the user should know about damaged lines; None if there are none."""
        if not self.damaged:
            return None
        lines = "line" if self.damaged == 1 else "lines"
        return f"{self.damaged:,} damaged {lines} of {self._path} left out"

    def __contains__(self, unit: Unit) -> bool:
        return key(unit) in self.results

    def result(self, unit: Unit) -> dict[str, Any]:
        """The result of a unit.

        Raises:
            KeyError: There is none.
        """
        return self.results[key(unit)]

    def add(self, unit: Unit, result: Mapping[str, Any]) -> None:
        """Keep the result of a unit: a JSON object without nan or infinities.

        Raises:
            ResourceError: The file cannot be written.
        """
        line = json.dumps(
            {"run": self._run, "unit": dict(unit), "result": dict(result)}, allow_nan=False
        )
        self.results[key(unit)] = json.loads(line)["result"]
        if self._path is None:
            return
        try:
            self._append(self._path, line.encode() + b"\n")
        except OSError as error:
            raise ResourceError(
                f"{self._path} cannot be written: {error.strerror or error}"
            ) from None

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        """Append a line; one before it that has no end gets it, so that it spoils no other."""
        with appending(path) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            torn = end and file.read(1) != b"\n"
            file.write(b"\n" + line if torn else line)


def key(unit: Unit) -> str:
    """A unit as text, the same for equal units."""
    return json.dumps(dict(unit), sort_keys=True)
