"""JSON objects from files that are not trusted. Imports the standard library only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmi_cli.errors import ModelError


def read_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    """Read a file that holds one JSON object of at most ``limit_bytes`` bytes.

    Raises:
        ModelError: It is larger, not JSON, or not an object.
    """
    size = path.stat().st_size
    if size > limit_bytes:
        raise ModelError(f"{path} is {size:,} bytes long; at most {limit_bytes:,} are accepted")
    return parse_object(path, path.read_bytes())


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """Parse a JSON object without repeated keys.

    Args:
        path: Where it comes from, for the message.
        data: The object.

    Raises:
        ModelError: It is not such an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice")
        return result

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise ModelError(f"{path}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def walk(path: Path, value: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield every key of a nested object with its value; elements of a list get the list's key."""
    if depth > 32:
        raise ModelError(f"{path}: its JSON is nested too deeply")
    if isinstance(value, dict):
        for name, child in value.items():
            yield name, child
            yield from walk(path, child, name, depth + 1)
    elif isinstance(value, list):
        for child in value:
            yield key, child
            yield from walk(path, child, key, depth + 1)
