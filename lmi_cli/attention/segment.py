"""What a layer keeps and what a query attends to, described without tensors.

A method describes a layer by two short lists. A :class:`Track` is what the layer's cache keeps:
which tokens, and the position to which their keys are rotated. A :class:`Segment` is what a query
attends to: a track, the position of the query there, and the band of true distance in which the
segment is visible. Several segments may read one track. Imports the standard library only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:  # a method can be described without loading torch
    from torch import Tensor


class Position(Protocol):
    """A rule that assigns to true positions the positions that count for a score.

    Positions are counted from the beginning of the stream. A rule is hashable, and equal to another
    one that assigns the same positions.
    """

    @property
    def at(self) -> int | None:
        """The position of every token; None if it depends on the token."""
        ...

    def assign(self, positions: "Tensor") -> "Tensor":
        """Assigned positions for the true ``positions`` (int64, any shape)."""
        ...


@dataclass(frozen=True, slots=True)
class Own:
    """Every token keeps its true position in the stream."""

    at: ClassVar[int | None] = None

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return ``positions`` (int64, any shape) as they are."""
        return positions


@dataclass(frozen=True, slots=True)
class Fixed:
    """Every token gets the same position, ``at`` tokens from the beginning of the stream."""

    at: int

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return a tensor like ``positions`` (int64, any shape) filled with ``at``."""
        return positions.new_full(positions.shape, self.at)


@dataclass(frozen=True, slots=True)
class Capped:
    """Every token keeps its true position, but none has one beyond ``most``."""

    most: int
    at: ClassVar[int | None] = None

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return ``positions`` (int64, any shape), those beyond ``most`` replaced by it."""
        return positions.clamp(max=self.most)


@dataclass(frozen=True, slots=True)
class Grouped:
    """Every ``size`` consecutive tokens share a position, moved by ``shift`` tokens."""

    size: int
    shift: int = 0
    at: ClassVar[int | None] = None

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return the positions of the groups of ``positions`` (int64, any shape)."""
        return positions // self.size + self.shift


@dataclass(frozen=True, slots=True)
class First:
    """Retention of the starting tokens of a stream, for ever.

    Attributes:
        tokens: Number of tokens.
    """

    tokens: int

    def capacity(self, chunk: int) -> int | None:
        """Largest number of tokens in memory while a stream is read in chunks of ``chunk``."""
        return self.tokens


@dataclass(frozen=True, slots=True)
class Recent:
    """Retention of the most recent tokens of a stream.

    Attributes:
        tokens: Number of positions that a query can see, its own included; None keeps every token.
    """

    tokens: int | None

    def capacity(self, chunk: int) -> int | None:
        """Largest number of tokens in memory while a stream is read in chunks of ``chunk``.

        A chunk needs the ``tokens - 1`` tokens before its first query and space for itself, which
        is at least an eighth of the window, so that moving the window back to the front of its
        buffer, once the space is used up, costs little per token. None if it grows with the stream.
        """
        return None if self.tokens is None else self.tokens - 1 + max(chunk, self.tokens // 8)


@dataclass(frozen=True, slots=True)
class Track:
    """Keys and values of some tokens of a stream, as the cache of one layer keeps them.

    Attributes:
        name: Unique within the layer; segments refer to it.
        retention: Which tokens are kept.
        position: Positions of their keys. They depend on the key alone, so each key is rotated
            once, when it is stored.
    """

    name: str
    retention: First | Recent
    position: Position = Own()


SEARCHES = ("exact", "pruned", "clusters")
"""Ways of finding the best-matching keys of a store."""

KEYS_PER_CLUSTER = 20
"""Of keys in clusters, so many are in one on average."""


@dataclass(frozen=True, slots=True)
class Search:
    """How the best-matching keys of a store are found; :mod:`lmi_cli.attention.search` has them.

    Attributes:
        kind: One of ``SEARCHES``.
        percent: About how many of a hundred keys are scored one by one, so that the best of these
            are chosen; ``exact`` scores all.
    """

    kind: str = SEARCHES[0]
    percent: int = 100

    @property
    def clusters(self) -> bool:
        """Whether the keys are put in clusters first."""
        return self.kind == "clusters"


@dataclass(frozen=True, slots=True)
class Segment:
    """Keys that a query attends to, under one assignment of positions.

    Attributes:
        track: Name of the track that the keys come from. Where the layer keeps no track of this
            name, the keys come from the store of this name that the state searches.
        query_position: Position of the query that counts for the score.
        nearest: Smallest true distance ``i - j`` that is visible, in tokens.
        farthest: First true distance that is no longer visible; None for no limit.
        topk: Number of best-matching keys that a query head attends to; None for all keys. Only a
            store can be searched; its keys are at position 0.
        search: How these keys are found.
    """

    track: str
    query_position: Position = Own()
    nearest: int = 0
    farthest: int | None = None
    topk: int | None = None
    search: Search = Search()
