"""The cache of one layer: its starting tokens and its sliding window."""

import torch
from torch import Tensor

from lmi_cli.attention.segment import Region
from lmi_cli.cache.buffer import SlidingBuffer
from lmi_cli.methods.base import Retention


class LayerCache:
    """Keys and values of one layer, by region.

    Keys are stored rotated to the position that their region assigns them, so each is rotated once.
    Tensors live on the device of the layer that made them.
    """

    def __init__(self, keep: Retention, chunk: int) -> None:
        self.window = SlidingBuffer(keep.window, chunk)
        self._sink_count = keep.sinks
        self._sinks: tuple[Tensor, Tensor] | None = None

    @property
    def sinks(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the starting tokens so far."""
        return self._sinks

    def missing_sinks(self) -> int:
        """Number of starting tokens still to be stored."""
        return self._sink_count - (self._sinks[0].shape[2] if self._sinks else 0)

    def add_sinks(self, key: Tensor, value: Tensor) -> None:
        """Add starting tokens (``[B, Hkv, n, D]``), in stream order."""
        if self._sinks is None:
            # A plain clone would keep the order in memory of what it is a part of.
            whole = torch.contiguous_format
            self._sinks = (key.clone(memory_format=whole), value.clone(memory_format=whole))
        else:
            old_key, old_value = self._sinks
            self._sinks = (torch.cat((old_key, key), 2), torch.cat((old_value, value), 2))

    def truncate(self, position: int, tokens: int) -> None:
        """Let go of everything from ``position`` on, behind the first ``tokens`` of the stream."""
        self.window.truncate(position)
        if self._sinks is not None:
            key, value = self._sinks
            self._sinks = (key[:, :, :tokens], value[:, :, :tokens]) if tokens else None

    def region(self, region: Region) -> tuple[Tensor, Tensor, int] | None:
        """Keys, values and the true position of the first; None while the region is empty."""
        if region is Region.WINDOW:
            return (self.window.key, self.window.value, self.window.start)
        return None if self._sinks is None else (*self._sinks, 0)

    def clone(self) -> "LayerCache":
        """An independent copy. Sinks are never written to twice, so they are shared."""
        other = LayerCache.__new__(LayerCache)
        other.window = self.window.clone()
        other._sink_count, other._sinks = self._sink_count, self._sinks
        return other

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.window.nbytes + sum(t.nbytes for t in self._sinks or ())

    @property
    def capacity(self) -> int:
        """Tokens allocated, in both regions."""
        return self.window.capacity + (self._sinks[0].shape[2] if self._sinks else 0)
