"""What a layer keeps and what a query attends to, described without tensors.

A method describes a layer by two short lists. A :class:`Track` is what the layer's cache keeps:
which tokens, and the position to which their keys are rotated. A :class:`Segment` is what a query
attends to: a track, the position of the query there, and the band of true distance in which the
segment is visible. Several segments may read one track. Imports the standard library only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:  # a method can be described where torch is not loaded
    from torch import Tensor


class Position(Protocol):
    """Where tokens stand for a score: a rule from true positions to assigned ones.

    A rule is hashable and equal to another one that assigns the same positions.
    """

    @property
    def at(self) -> int | None:
        """The position at which every token stands; None if it depends on the token."""
        ...

    def assign(self, positions: "Tensor") -> "Tensor":
        """Assigned positions, int64 like ``positions``, from true ones of any shape."""
        ...


@dataclass(frozen=True, slots=True)
class Own:
    """A token stands at its true position in the stream."""

    at: ClassVar[int | None] = None

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


@dataclass(frozen=True, slots=True)
class First:
    """Retention of the starting tokens of a stream, for ever.

    Attributes:
        tokens: How many.
    """

    tokens: int

    def capacity(self, chunk: int) -> int | None:
        """Largest number of tokens in memory while a stream is read in chunks of ``chunk``."""
        return self.tokens


@dataclass(frozen=True, slots=True)
class Recent:
    """Retention of the most recent tokens of a stream.

    Attributes:
        tokens: Positions on which a query looks back, its own included; None keeps every token.
    """

    tokens: int | None

    def capacity(self, chunk: int) -> int | None:
        """Largest number of tokens in memory while a stream is read in chunks of ``chunk``.

        A chunk needs the ``tokens - 1`` tokens before its first query and room for itself. The room
        is at least an eighth of the window, so that moving the window back to the front of its
        buffer, once the room is used up, costs little for each token. None grows with the stream.
        """
        return None if self.tokens is None else self.tokens - 1 + max(chunk, self.tokens // 8)


@dataclass(frozen=True, slots=True)
class Track:
    """Keys and values of some tokens of a stream, as the cache of one layer keeps them.

    Attributes:
        name: Unique within the layer; segments refer to it.
        retention: Which tokens are kept.
        position: Where their keys stand. It depends on the key alone, so each key is rotated once,
            when it is stored.
    """

    name: str
    retention: First | Recent
    position: Position = Own()


@dataclass(frozen=True, slots=True)
class Segment:
    """Keys that a query attends to, under one assignment of positions.

    Attributes:
        track: Name of the track that the keys come from. Where the layer keeps no track of this
            name, the keys come from the store of this name that the state searches.
        query_position: Where the query stands for the score.
        nearest: Smallest true distance ``i - j`` that is visible, in tokens.
        farthest: First true distance that is no longer visible; None has no limit.
        topk: Keys that a query head attends to, the best-matching ones; None is all of them. Only
            a store can be searched; its keys stand at position 0.
    """

    track: str
    query_position: Position = Own()
    nearest: int = 0
    farthest: int | None = None
    topk: int | None = None
