"""The interface of every method."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Segment


@dataclass(frozen=True, slots=True)
class Retention:
    """What a layer's cache keeps between chunks.

    Attributes:
        sinks: Number of starting tokens kept for ever.
        window: Number of most recent positions a query may look back on, itself included; None
            keeps all.
    """

    sinks: int
    window: int | None


class Method(Protocol):
    """Which cached keys a query sees, at which positions, and what the cache keeps."""

    name: ClassVar[str]

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The segments that a query of this layer attends to, in one softmax."""
        ...

    def retain(self, layer: LayerSpec) -> Retention:
        """What this layer's cache must keep for ``segments`` to be there."""
        ...

    def bound(self, chunk: int, layer: LayerSpec) -> int | None:
        """Largest number of tokens cached in this layer while reading in chunks; None grows."""
        ...

    def parameters(self) -> dict[str, int]:
        """Every parameter by name, in tokens, for the report."""
        ...


def visible_window(window: int | None, native: int | None) -> int | None:
    """The narrower of two windows, where None is unlimited."""
    if window is None or native is None:
        return native if window is None else window
    return min(window, native)
