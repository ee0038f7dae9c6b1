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
class Adjacent:
    """Kept tokens stand side by side, the last of them directly before the query.

    What has been dropped leaves no gap. So a key moves when tokens behind it are dropped: it is
    kept at position 0 and rotated whenever it is seen.
    """

    at: ClassVar[int | None] = 0

    def assign(self, positions: "Tensor") -> "Tensor":
        """Return positions (int64) like ``positions`` of keys that are kept, which are 0."""
        return positions.new_zeros(positions.shape)


Spans = tuple[tuple[int, int], ...]
"""Half-open ranges of positions, counted from the beginning of a stream."""


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

    def kept(self, position: int) -> Spans:
        """What is certainly kept when a token at ``position`` has been read."""
        return ((0, min(self.tokens, position + 1)),)


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

    def kept(self, position: int) -> Spans:
        """What is certainly kept when a token at ``position`` has been read."""
        start = 0 if self.tokens is None else max(0, position - self.tokens + 1)
        return ((start, position + 1),)


@dataclass(frozen=True, slots=True)
class Surprising:
    """Retention of starting, surprising and recent tokens, decided anew every ``block`` tokens.

    When the number of tokens read is a multiple of ``block``, all are dropped but the first
    ``sinks``, the last ``recent`` and, of those between, the ``tokens`` with the largest negative
    log-likelihood; among equals, the earlier ones are kept. What has been dropped stays dropped.

    Attributes:
        sinks: Starting tokens.
        tokens: Surprising tokens.
        recent: Recent tokens that are left when others are dropped.
        block: Tokens that are read between.
    """

    sinks: int
    tokens: int
    recent: int
    block: int

    def capacity(self, chunk: int) -> int | None:
        """Largest number of tokens in memory, whatever the size of chunks."""
        return self.sinks + self.tokens + self.recent + self.block

    def kept(self, position: int) -> Spans:
        """What is certainly kept when a token at ``position`` has been read."""
        start = max(0, position - position % self.block - self.recent)
        if start <= self.sinks + self.tokens:
            return ((0, position + 1),)
        return ((0, self.sinks), (start, position + 1))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Retention of every token behind the first ones, cut into blocks that can be looked up.

    A block is finished when a pass begins at whose first token all of its tokens are ``window``
    tokens or more away. Passes end at multiples of ``pass_tokens``.

    Attributes:
        first: Starting tokens, which belong to no block.
        window: Distance in tokens.
        block: Tokens of a block.
        representatives: Keys, in each head, whose mean stands for the block.
        pass_tokens: See above.
    """

    first: int
    window: int
    block: int
    representatives: int
    pass_tokens: int

    @property
    def unfinished(self) -> Recent:
        """Retention of what may be in no finished block."""
        return Recent(self.first + self.window + self.block + self.pass_tokens)

    def capacity(self, chunk: int) -> int | None:
        """None: it grows with the stream."""
        return None

    def finished(self, position: int) -> int:
        """Blocks that are finished when a token at ``position`` is read."""
        start = position - position % self.pass_tokens
        return max(0, start - self.window + 1 - self.first) // self.block

    def kept(self, position: int) -> Spans:
        """What a query at ``position`` need not look up: what is in no finished block."""
        start = self.first + self.finished(position) * self.block
        return ((min(start, position + 1), position + 1),)


Retention = First | Recent | Surprising | Blocks
"""Which tokens of a stream a track keeps."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """How queries choose among finished blocks.

    Every ``every`` tokens, from the beginning of the stream, the ``blocks`` best are chosen by the
    mean of the last ``every`` queries: those that a query at the last such place, and the
    ones before it, ask for. So no choice depends on a later token, or on the size of chunks.

    Attributes:
        blocks: Number of blocks.
        every: Tokens; a divisor of ``Blocks.pass_tokens``.
    """

    blocks: int
    every: int


@dataclass(frozen=True, slots=True)
class Track:
    """Keys and values of some tokens of a stream, as the cache of one layer keeps them.

    Attributes:
        name: Unique within the layer; segments refer to it.
        retention: Which tokens are kept.
        position: Positions of their keys. They depend on the key alone, so each key is rotated
            once, when it is stored.
        heads: Key heads of which they are kept, and whose queries see them; None for all. A layer
            has at least one track of all heads.
    """

    name: str
    retention: Retention
    position: Position = Own()
    heads: tuple[int, ...] | None = None


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
        lookup: How finished blocks of the track are chosen, which are visible beside the tokens
            that are in none; None for a track without blocks.
        heads: Key heads whose queries search a store; None for all. Those of a track say it
            themselves.
        search: How these keys are found.
    """

    track: str
    query_position: Position = Own()
    nearest: int = 0
    farthest: int | None = None
    topk: int | None = None
    lookup: Lookup | None = None
    heads: tuple[int, ...] | None = None
    search: Search = Search()
