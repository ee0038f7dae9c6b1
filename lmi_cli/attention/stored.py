"""Stored keys and values as a search sees them: in blocks, un-rotated, at position 0."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmi_cli.attention.int8 import dequantize


class KeyClusters(NamedTuple):
    """The keys of a block in clusters; see :mod:`lmi_cli.attention.clusters`.

    Attributes:
        centroid: Mean of the keys of each cluster, ``[B, Hkv, C, D]``, float32 or wider.
        cluster: Number of the cluster of each key, ``[B, Hkv, n, 1]``, int16.
        size: Number of keys of each cluster, ``[B, Hkv, C]``, int64.
    """

    centroid: Tensor
    cluster: Tensor
    size: Tensor

    @classmethod
    def of(cls, centroid: Tensor, cluster: Tensor) -> "KeyClusters":
        """Count the keys of each cluster.

        Raises:
            ValueError: There is a key of a cluster that does not exist.
        """
        clusters = centroid.shape[2]
        if int(cluster.min()) < 0 or int(cluster.max()) >= clusters:
            raise ValueError(f"a key is in none of its {clusters:,} clusters")
        size = torch.zeros(centroid.shape[:3], dtype=torch.int64, device=centroid.device)
        number = cluster[..., 0].long()
        return cls(centroid, cluster, size.scatter_add_(-1, number, torch.ones_like(number)))


class KeyBlock(NamedTuple):
    """Consecutive stored keys and values, un-rotated.

    Attributes:
        key: ``[B, Hkv, n, D]``; codes, if there is a scale.
        value: ``[B, Hkv, n, Dv]``; codes, if there is a scale.
        start: True position of the first key.
        key_scale: ``[B, Hkv, n, 1]``, of keys in eight bits; None otherwise.
        value_scale: The same of values.
        clusters: The keys in clusters; None if nothing needs them.
    """

    key: Tensor
    value: Tensor
    start: int
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None
    clusters: KeyClusters | None = None


class StoredKeys:
    """All blocks of a layer as one sequence of keys, each found by its number.

    Args:
        blocks: In stream order, without gaps; at least one.
    """

    def __init__(self, blocks: Sequence[KeyBlock]) -> None:
        self.blocks = blocks
        ends = torch.tensor([block.key.shape[2] for block in blocks]).cumsum(0)
        self.ends: list[int] = ends.tolist()
        self._ends = ends.to(blocks[0].key.device)

    @property
    def count(self) -> int:
        """Number of keys."""
        return self.ends[-1]

    @property
    def first(self) -> int:
        """True position of key number 0."""
        return self.blocks[0].start

    def scores(self, query: Tensor, row: Tensor, number: Tensor) -> Tensor:
        """Scores ``[n]`` of single keys, in float32 or wider.

        Args:
            query: ``[B, H, Q, D]``.
            row: Number of the query that each key is for, ``[n]``, as ``[B, H, Q]`` is counted.
            number: Number of each key, ``[n]``.
        """
        parts = [(block.key, block.key_scale) for block in self.blocks]
        key = self._rows(query, row, number, parts)
        wide = torch.promote_types(query.dtype, torch.float32)
        return (key.to(wide) * query.flatten(0, 2)[row].to(wide)).sum(-1)

    def values(self, query: Tensor, row: Tensor, number: Tensor) -> Tensor:
        """Values ``[n, Dv]`` of single keys; arguments as for :meth:`scores`."""
        parts = [(block.value, block.value_scale) for block in self.blocks]
        return self._rows(query, row, number, parts)

    def _rows(
        self,
        query: Tensor,
        row: Tensor,
        number: Tensor,
        parts: Sequence[tuple[Tensor, Tensor | None]],
    ) -> Tensor:
        device, key_heads = self._ends.device, parts[0][0].shape[1]
        batch, head = row // (query.shape[1] * query.shape[2]), row // query.shape[2]
        head = head % query.shape[1] // (query.shape[1] // key_heads)
        batch, head, number = batch.to(device), head.to(device), number.to(device)
        if len(parts) == 1:
            return _picked(*parts[0], batch, head, number).to(query.device)
        block = torch.bucketize(number, self._ends, right=True)
        found: Tensor | None = None
        for index, (part, start) in enumerate(zip(parts, [0, *self.ends], strict=False)):
            here = (block == index).nonzero()[:, 0]
            if len(here) == 0:
                continue
            rows = _picked(*part, batch[here], head[here], number[here] - start)
            if found is None:
                found = rows.new_empty(len(number), rows.shape[-1])
            found[here] = rows
        if found is None:
            found = dequantize(*parts[0])[0, 0, :0]
        return found.to(query.device)


def _picked(
    part: Tensor, scale: Tensor | None, batch: Tensor, head: Tensor, number: Tensor
) -> Tensor:
    """Rows ``[n, D]`` of ``[B, Hkv, ., D]``, dequantized."""
    place = (batch, head, number)
    return dequantize(part[place], None if scale is None else scale[place])
