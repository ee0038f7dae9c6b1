"""Stored keys and values as a search sees them: in blocks, un-rotated, at position 0."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmi_cli.attention.int8 import dequantize

_FEW_QUERIES = 4


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

    def of(self, heads: Sequence[int]) -> "KeyBlock":
        """The same tokens in some key heads."""
        rows = list(heads)
        key_scale, value_scale = (
            None if x is None else x[:, rows] for x in (self.key_scale, self.value_scale)
        )
        found = self.clusters
        return KeyBlock(
            self.key[:, rows],
            self.value[:, rows],
            self.start,
            key_scale,
            value_scale,
            None if found is None else KeyClusters(*(part[:, rows] for part in found)),
        )


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

    def values(self, query: Tensor, row: Tensor, number: Tensor) -> Tensor:
        """Values ``[n, Dv]`` of single keys; arguments as for :meth:`KeyScores.at`."""
        parts = [(block.value, block.value_scale) for block in self.blocks]
        return self._rows(query, row, number, parts)

    def keys(self, query: Tensor, row: Tensor, number: Tensor) -> Tensor:
        """Single keys ``[n, D]``; arguments as for :meth:`KeyScores.at`."""
        parts = [(block.key, block.key_scale) for block in self.blocks]
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
        line, number = (batch * key_heads + head).to(device), number.to(device)
        if len(parts) == 1:
            return _picked(*parts[0], line, number).to(query.device)
        block = torch.bucketize(number, self._ends, right=True)
        found: Tensor | None = None
        for index, (part, start) in enumerate(zip(parts, [0, *self.ends], strict=False)):
            here = (block == index).nonzero()[:, 0]
            if len(here) == 0:
                continue
            at = part[0].device
            rows = _picked(*part, line[here].to(at), (number[here] - start).to(at)).to(device)
            if found is None:
                found = rows.new_empty(len(number), rows.shape[-1])
            found.index_copy_(0, here, rows)
        if found is None:
            found = dequantize(*parts[0])[0, 0, :0]
        return found.to(query.device)


def _picked(part: Tensor, scale: Tensor | None, line: Tensor, number: Tensor) -> Tensor:
    """Rows ``[n, D]`` of ``[B, Hkv, ., D]``, dequantized; ``line`` is ``b * Hkv + h``."""
    rows = _rows_of(part, line, number)
    return dequantize(rows, None if scale is None else _rows_of(scale, line, number))


def _rows_of(part: Tensor, line: Tensor, number: Tensor) -> Tensor:
    """The same of numbers as they are kept."""
    batch, heads, keys, size = part.shape
    apart = part.stride(1)
    if part.stride()[2:] != (size, 1) or apart % size or part.stride(0) != heads * apart:
        part, apart = part.contiguous(), keys * size
    # One table of all rows, whose selection is several times as fast as by three indices.
    apart //= size
    table = part.as_strided(((batch * heads - 1) * apart + keys, size), (size, 1))
    return table.index_select(0, line * apart + number)


class KeyScores:
    """Scores of single keys for some queries, in float32 or wider.

    For few queries each key is fetched when it is asked for. For more of them, a product of all
    keys with all queries takes less time than fetching keys for each query, so all are scored.

    Args:
        query: ``[B, H, Q, D]``, as for :func:`lmi_cli.attention.topk.attend_topk`.
        stored: The keys.
    """

    def __init__(self, query: Tensor, stored: StoredKeys) -> None:
        self.query = query
        self.stored = stored
        self._wide = query.to(torch.promote_types(query.dtype, torch.float32))
        self._all: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """That of the scores."""
        return self._wide.dtype

    def at(self, row: Tensor, number: Tensor) -> Tensor:
        """Scores ``[n]`` of the keys of these numbers.

        Args:
            row: Number of the query that each key is for, ``[n]``, as ``[B, H, Q]`` is counted; in
                ascending order.
            number: Number of each key, ``[n]``.
        """
        if self.query.shape[2] > _FEW_QUERIES:
            if self._all is None:
                self._all = self._product()
            return self._all[row, number]
        queries = self._wide.flatten(0, 2)
        counts = torch.bincount(row, minlength=len(queries)).tolist()
        parts = self.stored.keys(self.query, row, number).split(counts)
        return torch.cat([key.to(self.dtype) @ q for key, q in zip(parts, queries, strict=True)])

    def _product(self) -> Tensor:
        """Scores of all keys for all queries, ``[B * H * Q, keys]``."""
        batch, heads, rows, size = self._wide.shape
        parts = []
        for block in self.stored.blocks:
            key = dequantize(block.key, block.key_scale).to(self.query.device, self.dtype)
            folded = self._wide.reshape(batch, key.shape[1], -1, size)
            parts.append((folded @ key.mT).view(batch * heads * rows, -1))
        return torch.cat(parts, -1)
