"""A record with checks of its fields; an error names the file and the line."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from lmi_cli.errors import NoInputError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Row:
    """One JSON object of a file.

    Args:
        values: The object.
        where: File and line, for messages.

    Every method raises a NoInputError if a field is missing or of another type.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def has(self, *names: str) -> bool:
        """Whether it has all of these fields."""
        return all(name in self.values for name in names)

    def fault(self, text: str) -> NoInputError:
        """An error about this record."""
        return NoInputError(f"{self.where}: {text}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text; without a default, the field must be there."""
        value = self.values.get(name, default)
        if isinstance(value, str):
            return clean(value)
        raise self.fault(
            f"{name!r} is missing" if name not in self.values else f"{name!r} is not a text"
        )

    def filled(self, name: str) -> str:
        """A text that is not blank."""
        value = self.text(name)
        if not value.strip():
            raise self.fault(f"{name!r} is empty")
        return value

    def texts(self, name: str, *, least: int = 1) -> tuple[str, ...]:
        """A list of at least so many texts; a single text counts as a list of one."""
        value = self.values.get(name)
        found = [value] if isinstance(value, str) else value
        if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
            raise self.fault(
                f"{name!r} is missing"
                if name not in self.values
                else f"{name!r} is no list of texts"
            )
        if len(found) < least:
            raise self.fault(f"{name!r} is empty")
        return tuple(map(clean, found))

    def scalars(self, name: str) -> tuple[str, ...]:
        """Texts or numbers, one or a list of them, all as text."""
        value = self.values.get(name)
        found = value if isinstance(value, list) else [value]
        if not found or not all(_is_scalar(each) for each in found):
            raise self.fault(f"{name!r} is neither a text, a number nor a list of them")
        return tuple(clean(str(each)) for each in found)

    def integer(self, name: str, *, least: int = 1) -> int:
        """A whole number that is not below ``least``."""
        value = self.values.get(name)
        if type(value) is not int or value < least:
            raise self.fault(f"{name!r} is not a whole number from {least} on")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false; None if it is null or not there."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fault(f"{name!r} is neither true, false nor null")
        return value

    def inner(self, name: str) -> "Row":
        """An object."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.fault(f"{name!r} is not an object")
        return Row(value, self.where)

    def objects(self, name: str) -> list["Row"]:
        """A list of objects."""
        value = self.values.get(name)
        if not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
            raise self.fault(f"{name!r} is no list of objects")
        return [Row(each, self.where) for each in value]

    def pattern(self, name: str, flags: int = 0) -> re.Pattern[str]:
        """A regular expression that every version of Python reads in the same way."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return re.compile(self.filled(name), flags)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise self.fault(f"{name!r} is not a regular expression: {error}") from None


def clean(text: str) -> str:
    """A text that can be encoded: halves of characters, which JSON can express, are replaced."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _is_scalar(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    return not isinstance(value, float) or math.isfinite(value)
