"""What a query may attend to, said without a single tensor.

A method is a short list of :class:`Segment`: a region of the cache, the positions at which its keys
and the query meet there, and the band of true distance in which the segment is visible.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a method can be described where torch is not loaded
    from torch import Tensor


class Region(Enum):
    """A part of a layer's cache that lies contiguously in the stream."""

    SINKS = "sinks"
    WINDOW = "window"
    MIDDLE = "middle"


@dataclass(frozen=True, slots=True)
class Own:
    """A token stands at its true position in the stream."""

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return ``positions`` (int64, any shape) as they are."""
        return positions


@dataclass(frozen=True, slots=True)
class Fixed:
    """Every token stands at the same position, ``at`` tokens from the origin."""

    at: int

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return a tensor like ``positions`` (int64, any shape) filled with ``at``."""
        return positions.new_full(positions.shape, self.at)


Position = Own | Fixed


@dataclass(frozen=True, slots=True)
class Segment:
    """One region, seen under one assignment of positions.

    Attributes:
        region: Which keys and values.
        query_position: Where the query stands for the score.
        key_position: Where the keys stand. It depends on the key alone, so that a rotated copy of
            the region can be kept.
        nearest: Smallest true distance ``i - j`` that is visible, in tokens.
        farthest: First true distance that is no longer visible; None has no limit.
        topk: Keys that a query head attends to, the best-matching ones; None is all of them. Only
            the middle can be searched, and its keys stand at position 0.
    """

    region: Region
    query_position: Position = Own()
    key_position: Position = Own()
    nearest: int = 0
    farthest: int | None = None
    topk: int | None = None
