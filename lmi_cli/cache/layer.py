"""The cache of one layer: its tracks by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmi_cli.attention.segment import Blocks, First, Recent, Surprising, Track
from lmi_cli.cache.blocks import BlockMemory
from lmi_cli.cache.buffer import SlidingBuffer
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.surprising import SurprisingTokens
from lmi_cli.cache.track import CachedTrack, Span


class StartingTokens(CachedTrack):
    """The first keys and values of a stream.

    Args:
        retention: How many.
    """

    def __init__(self, retention: First) -> None:
        self.retention = retention
        self._tensors: tuple[Tensor, Tensor] | None = None
        self._start = 0

    def takes(self, count: int) -> int:
        """As many as are still missing."""
        return min(count, self.retention.tokens - self.capacity)

    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add starting tokens, in stream order."""
        if self._tensors is None:
            # A plain clone would keep the order in memory of what it is a part of.
            whole = torch.contiguous_format
            self._tensors = (key.clone(memory_format=whole), value.clone(memory_format=whole))
            self._start = position
        else:
            old_key, old_value = self._tensors
            self._tensors = (torch.cat((old_key, key), 2), torch.cat((old_value, value), 2))

    @property
    def span(self) -> Span | None:
        """The tokens so far; None before the first one."""
        return (
            None if self._tensors is None else Span(*self._tensors, 0, self.capacity, self._start)
        )

    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        if self._tensors is not None:
            key, value = self._tensors
            count = position - self._start
            self._tensors = (key[:, :, :count], value[:, :, :count]) if count > 0 else None

    def clone(self) -> "StartingTokens":
        """A copy that shares its tensors, which are never written to twice."""
        other = StartingTokens(self.retention)
        other._tensors, other._start = self._tensors, self._start
        return other

    def save(self) -> dict[str, Tensor]:
        """Keys, values and the position of the first."""
        if self._tensors is None:
            return {}
        key, value = self._tensors
        return {"key": key, "value": value, "start": torch.tensor(self._start)}

    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned."""
        if tensors:
            key, value = tensors["key"], tensors["value"]
            self._tensors = (key.contiguous(), value.contiguous())
            self._start = int(tensors["start"])
            kept = min(position - self._start, self.retention.tokens)
            if not 0 < key.shape[2] == value.shape[2] == kept:
                raise ValueError(f"there are {key.shape[2]:,} of {kept:,} starting tokens")

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(tensor.nbytes for tensor in self._tensors or ())

    @property
    def capacity(self) -> int:
        """Tokens kept so far."""
        return 0 if self._tensors is None else self._tensors[0].shape[2]


class LayerCache:
    """Keys and values of one layer, by track.

    Args:
        tracks: What is kept.
        chunk: Largest number of tokens appended at once.
        pool: Where memory that grows with the stream comes from.

    Attributes:
        tracks: By name, the track as it was described and what is kept of it.
    """

    def __init__(self, tracks: Sequence[Track], chunk: int, pool: BlockPool | None = None) -> None:
        self._chunk, self._pool = chunk, pool or BlockPool()
        self.tracks: dict[str, tuple[Track, CachedTrack]] = {
            track.name: (track, _opened(track, chunk, self._pool)) for track in tracks
        }

    def clear(self) -> None:
        """Begin anew, as if nothing had been read."""
        pool = self._pool.fresh()  # what was taken is given back
        self.tracks = {
            name: (track, _opened(track, self._chunk, pool))
            for name, (track, _) in self.tracks.items()
        }

    def span(self, name: str) -> Span | None:
        """The live tokens of a track; None if there are none, or no such track."""
        return self.tracks[name][1].span if name in self.tracks else None

    def next_tokens_track(self) -> str | None:
        """Name of the one track that the next tokens go into, if places in it can be reserved.

        None if there is not exactly one, if it holds no token yet, or if a track is of some heads.
        """
        found = None
        for name, (track, cached) in self.tracks.items():
            if track.heads is not None:
                return None
            if cached.takes(1):
                if found is not None or not isinstance(cached, SlidingBuffer) or not len(cached):
                    return None
                found = name
        return found

    def weigh(self, surprisal: Tensor, position: int) -> None:
        """See :meth:`CachedTrack.weigh`."""
        for _, cached in self.tracks.values():
            cached.weigh(surprisal, position)

    def truncate(self, position: int) -> None:
        """Drop everything from ``position`` on."""
        for _, cached in self.tracks.values():
            cached.truncate(position)

    def clone(self) -> "LayerCache":
        """An independent copy of what the next query sees."""
        other = LayerCache((), self._chunk, self._pool)
        other.tracks = {
            name: (track, cached.clone()) for name, (track, cached) in self.tracks.items()
        }
        return other

    def save(self) -> dict[str, Tensor]:
        """Everything that :meth:`restore` needs, as ``TRACK.PART``."""
        return {
            f"{name}.{part}": tensor
            for name, (_, cached) in self.tracks.items()
            for part, tensor in cached.save().items()
        }

    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned at a position.

        Raises:
            KeyError: A tensor is missing.
            ValueError: See :meth:`CachedTrack.restore`.
        """
        for name, (_, cached) in self.tracks.items():
            prefix = f"{name}."
            cached.restore(
                {
                    place.removeprefix(prefix): tensor
                    for place, tensor in tensors.items()
                    if place.startswith(prefix)
                },
                position,
            )

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(cached.nbytes for _, cached in self.tracks.values())

    @property
    def capacity(self) -> int:
        """Tokens allocated, in all tracks."""
        return sum(cached.capacity for _, cached in self.tracks.values())


def _opened(track: Track, chunk: int, pool: BlockPool) -> CachedTrack:
    match track.retention:
        case First():
            return StartingTokens(track.retention)
        case Recent():
            return SlidingBuffer(track.retention, chunk)
        case Surprising():
            return SurprisingTokens(track.retention)
        case Blocks():
            return BlockMemory(track.retention, chunk, pool)
