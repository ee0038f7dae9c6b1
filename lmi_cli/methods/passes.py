"""Where passes over a stream have to end, and what follows from that."""

from collections.abc import Iterable

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.methods.base import Method


def pass_room(method: Method, layers: Iterable[LayerSpec], tokens: int) -> int | None:
    """Tokens that a pass behind ``tokens`` of them may have; None for any number.

    It ends where a method or a layer wants passes to end, so that for each layer it is within one
    chunk, and what the method keeps changes between two passes.
    """
    chunked = {layer.native_window: layer for layer in layers if layer.chunked}
    places = {tokens, *(layer.place(tokens) for layer in chunked.values())}
    rooms = [size - tokens % size for size in chunked if size is not None]
    if (whole := method.pass_tokens) is not None:
        rooms += [whole - place % whole for place in places]
    return min(rooms, default=None)


def forgets(method: Method, layers: Iterable[LayerSpec]) -> bool:
    """Whether what is kept changes at certain tokens, so that none can be taken back."""
    return method.pass_tokens is not None or any(layer.chunked for layer in layers)
