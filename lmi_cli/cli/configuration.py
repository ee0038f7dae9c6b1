"""Configuration files: where they are looked for, what is in them, and on which line.

Imports the standard library and, when it looks for the user's folder, platformdirs.
"""

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmi_cli.errors import UsageError

NAME = "lmi.toml"
VARIABLE = "LMI_CONFIG"

_LIMIT_BYTES = 2**18
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[\w\"'-]+)*)\s*=")
_TEXTS = re.compile(
    r"""#[^\n]*|\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
"""Comments and texts of a valid file."""
_DEEP = re.compile(r"""(?:\.[ \t]*+(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+){16}""")
"""A key of so many parts that tomllib would need time and memory by the square of their number."""
_INSIDE = "\n\0"
_AT = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")

Key = tuple[str, ...]
"""Where a value stands: the names of its tables, and its own."""


@dataclass(frozen=True, slots=True)
class ConfigPlace:
    """A file that is looked for.

    Attributes:
        path: Where.
        own: Whether the user wrote or named it. The file of a folder may have come with the folder.
        named: Whether it was named, so that it has to be there.
    """

    path: Path
    own: bool
    named: bool = False

    @property
    def shown(self) -> str:
        """The path in messages and tables, with a tilde for the user's home folder."""
        home, path = os.path.expanduser("~"), str(self.path)  # noqa: PTH111 - pathlib's may raise
        inside = home not in ("", "~", os.sep) and path.startswith(home + os.sep)
        return "~" + path[len(home) :] if inside else path


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read.

    Attributes:
        place: Which.
        text: What is in it.
        values: The same as a dictionary.
    """

    place: ConfigPlace
    text: str
    values: dict[str, Any]

    def where(self, *key: str) -> str:
        """``PATH:LINE`` of a key, or the path alone where the line is not known."""
        line = self.line(*key)
        return self.place.shown if line is None else f"{self.place.shown}:{line}"

    def line(self, *key: str) -> int | None:
        """The number of the line on which a key or the header of a table stands."""
        return self._lines.get(key)

    @cached_property
    def _lines(self) -> dict[Key, int]:
        found: dict[Key, int] = {}
        table: Key = ()
        depth = 0
        bare = _TEXTS.sub(lambda match: _INSIDE * match[0].count("\n"), self.text)
        for number, (line, left) in enumerate(
            zip(self.text.split("\n"), bare.split("\n"), strict=True), 1
        ):
            # A line inside a text or a list of several lines only looks like one.
            if not depth and not left.startswith(_INSIDE[-1]):
                header, key = _TABLE.fullmatch(line.rstrip("\r")), _KEY.match(line)
                if header:
                    table = _split(header[1])
                if header or key:
                    name = (*table, *_split(key[1])) if key and not header else table
                    found.setdefault(name, number)
            depth += left.count("[") - left.count("]")
        return found


def _split(key: str) -> Key:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def places() -> list[ConfigPlace]:
    """The files that are looked for, the one that counts most first.

    ``LMI_CONFIG`` names another file in place of both, or, if it is empty, none.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [ConfigPlace(_expanded(named), own=True, named=True)] if named else []
    import platformdirs

    user = platformdirs.user_config_path("lmi", appauthor=False) / NAME
    here = ConfigPlace(Path(NAME), own=False)
    if not user.is_absolute():  # without a home folder, a literal "~" is left in the path
        return [here]
    try:
        same = os.path.realpath(NAME) == os.path.realpath(user)
    except OSError:  # the folder was deleted
        same = True
    return [ConfigPlace(user, own=True)] if same else [here, ConfigPlace(user, own=True)]


def _expanded(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib's may raise


def files() -> Iterator[ConfigFile]:
    """Read those that are there, the one that counts most first.

    Raises:
        UsageError: One cannot be read, or is not TOML.
    """
    for place in places():
        try:
            text = _text(place)
            if text is not None:
                if _DEEP.search(text):
                    raise RecursionError
                yield ConfigFile(place, text, tomllib.loads(text))
        except RecursionError:
            raise UsageError(f"{place.shown}: nested too deeply") from None
        except tomllib.TOMLDecodeError as error:
            raise _broken(place.shown, str(error)) from None
        except ValueError as error:  # such as a number of thousands of digits
            raise UsageError(f"{place.shown}: {error}") from None


def _broken(path: str, reason: str) -> UsageError:
    match = _AT.fullmatch(reason)
    if match is None:
        return UsageError(f"{path}: not valid TOML: {reason}")
    where = f"{path}:{match[2]}:{match[3]}" if match[2] else f"{path}, at its end"
    return UsageError(f"{where}: not valid TOML: {match[1]}")


def _text(place: ConfigPlace) -> str | None:
    path, shown = place.path, place.shown
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if place.named:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{VARIABLE} names {shown}, which cannot be read: {reason}",
                hint=f"set {VARIABLE} to nothing to use no configuration file",
            ) from None
        return None
    if not (stat.S_ISREG(status.st_mode) or (place.named and not path.is_dir())):
        names = f"{VARIABLE} names {shown}, which" if place.named else shown
        raise UsageError(f"{names} is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or error}") from None
    if len(data) > _LIMIT_BYTES:
        raise UsageError(f"{shown} is too large for a configuration file ({_LIMIT_BYTES:,} bytes)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown}: not UTF-8 text (byte {error.start:,})") from None
