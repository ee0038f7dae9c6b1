"""A buffer of keys and values that slides along the stream and stays contiguous."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lmi_cli.attention.segment import Recent
from lmi_cli.cache.track import CachedTrack, Span


class SlidingBuffer(CachedTrack):
    """The most recent keys and values of one layer, in stream order.

    New tokens are written behind the old ones. When the buffer is full, the part that is still
    needed moves to its front; nothing is copied in between, and every view is contiguous along the
    tokens.

    Args:
        retention: How far a query looks back.
        chunk: Largest number of tokens appended at once.
    """

    def __init__(self, retention: Recent, chunk: int) -> None:
        self.retention = retention
        self.chunk = chunk
        self.start = 0  # true position of the first live token
        self._tensors: tuple[Tensor, Tensor] | None = None
        self._begin = 0  # first live column of the tensors
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def key(self) -> Tensor:
        """Live keys, ``[B, Hkv, tokens, D]``."""
        return self._allocated()[0][:, :, self._begin : self._end]

    @property
    def value(self) -> Tensor:
        """Live values, ``[B, Hkv, tokens, Dv]``."""
        return self._allocated()[1][:, :, self._begin : self._end]

    @property
    def span(self) -> Span | None:
        """The live tokens; None before the first one."""
        if self._tensors is None:
            return None
        return Span(*self._tensors, self._begin, len(self), self.start)

    def takes(self, count: int) -> int:
        """All of them."""
        return count

    @property
    def nbytes(self) -> int:
        """Bytes allocated, live or not."""
        return sum(tensor.nbytes for tensor in self._tensors or ())

    @property
    def capacity(self) -> int:
        """Tokens allocated, live or not."""
        return self._tensors[0].shape[2] if self._tensors else 0

    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add tokens (``[B, Hkv, n, D]``, ``[B, Hkv, n, Dv]``); the first one is at ``position``.

        Tokens that no query from ``position`` on can see are dropped.
        """
        count = key.shape[2]
        if self._tensors is None:
            self._tensors = (self._allocate(key, count), self._allocate(value, count))
        column = self.reserve(count, position)
        for tensor, new in zip(self._tensors, (key, value), strict=True):
            tensor[:, :, column : self._end] = new

    def reserve(self, count: int, position: int) -> int:
        """Reserve columns for ``count`` tokens from ``position`` on, which the caller writes.

        Returns:
            The column of the first in the tensors of :attr:`span`.

        Raises:
            RuntimeError: Nothing has been appended yet, so the shape of a token is not known.
        """
        if self._begin == self._end:
            self.start = position
        self._forget_before(position)
        if self._end + count > self.capacity:
            self._make_room(count)
        self._end += count
        return self._end - count

    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        self._end = min(self._end, self._begin + max(0, position - self.start))

    def clone(self) -> "SlidingBuffer":
        """An independent copy of what the next query sees, with room for one more chunk."""
        other = SlidingBuffer(self.retention, self.chunk)
        window = self.retention.tokens
        keep = len(self) if window is None else min(len(self), window - 1)
        if keep:
            other.start = self.start + len(self) - keep
            key, value = self.key[:, :, -keep:], self.value[:, :, -keep:]
            other._reallocate_from(key, value, keep + self.chunk)
        return other

    def save(self) -> dict[str, Tensor]:
        """The live keys and values, and the position of the first."""
        if not len(self):
            return {}
        return {"key": self.key, "value": self.value, "start": torch.tensor(self.start)}

    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned."""
        if not tensors:
            return
        key, value, start = tensors["key"], tensors["value"], int(tensors["start"])
        kept, window = key.shape[2], self.retention.tokens
        least = position if window is None else min(position, window - 1)
        if kept != value.shape[2] or start + kept != position or not least <= kept <= position:
            raise ValueError(f"tokens {start:,} to {start + kept:,} at position {position:,}")
        self.append(key, value, start)

    def _allocated(self) -> tuple[Tensor, Tensor]:
        if self._tensors is None:
            raise RuntimeError("the buffer is empty")
        return self._tensors

    def _forget_before(self, position: int) -> None:
        """Drop what a query at ``position`` no longer sees."""
        window = self.retention.tokens
        if window is None:
            return
        gone = min(max(position - window + 1 - self.start, 0), len(self))
        self._begin += gone
        self.start += gone

    def _make_room(self, count: int) -> None:
        live = len(self)
        full_size = self.retention.capacity(self.chunk)
        growing = full_size is None or self.capacity < full_size
        if live + count > self.capacity or (growing and self._begin < live):
            self._reallocate_from(self.key, self.value, live + count)
            return
        for tensor in self._allocated():
            # Steps no longer than the distance moved never read what they have overwritten.
            for column in range(0, live, self._begin):
                step = min(self._begin, live - column)
                source = self._begin + column
                tensor[:, :, column : column + step] = tensor[:, :, source : source + step]
        self._begin, self._end = 0, live

    def _reallocate_from(self, key: Tensor, value: Tensor, needed: int) -> None:
        live = key.shape[2]
        tensors = (self._allocate(key, needed), self._allocate(value, needed))
        tensors[0][:, :, :live] = key
        tensors[1][:, :, :live] = value
        self._tensors, self._begin, self._end = tensors, 0, live

    def _allocate(self, like: Tensor, needed: int) -> Tensor:
        size = needed + needed // 2
        most = self.retention.capacity(self.chunk)
        if most is not None:
            size = max(needed, min(size, most))
        return like.new_empty(*like.shape[:2], size, like.shape[3])
