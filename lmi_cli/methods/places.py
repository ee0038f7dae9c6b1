"""Layers and key heads of a model as text, the form in which a method's parameters name them."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from lmi_cli.errors import UsageError

_RUN = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_KEY_HEAD = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


class KeyHead(NamedTuple):
    """A key head of a layer, with the query heads that share it; both numbers start at zero."""

    layer: int
    head: int


@lru_cache(maxsize=64)
def layers_in(text: str) -> tuple[int, ...]:
    """The layers, in ascending order, that a text such as ``0,5,8-11`` names.

    Raises:
        UsageError: It names none, or something else.
    """
    layers: set[int] = set()
    for part in text.split(","):
        found = _RUN.fullmatch(part.strip())
        first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
        if last < first:
            raise UsageError(f"{text!r} is not a list of layers such as 0,5,8-11")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def layers_text(layers: Iterable[int]) -> str:
    """Layers as text, one after the other, from which :func:`layers_in` reads them."""
    return ",".join(map(str, sorted(set(layers))))


@lru_cache(maxsize=64)
def key_heads_in(text: str) -> tuple[KeyHead, ...]:
    """The key heads, in ascending order, that a text such as ``2.1,17.0`` names.

    Raises:
        UsageError: It names none, or something else.
    """
    found = [_KEY_HEAD.fullmatch(part) for part in text.split(",")]
    heads = {KeyHead(int(match[1]), int(match[2])) for match in found if match is not None}
    if None in found:
        raise UsageError(f"{text!r} is not a list of key heads such as 2.1,17.0")
    return tuple(sorted(heads))


def key_heads_text(heads: Iterable[KeyHead]) -> str:
    """Key heads as text, ``LAYER.HEAD``, from which :func:`key_heads_in` reads them."""
    return ",".join(f"{layer}.{head}" for layer, head in sorted(set(heads)))
