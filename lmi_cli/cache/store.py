"""Keys and values of a whole document, un-rotated, in blocks.

The same structure serves as the middle memory (all keys and values of every layer) and as the index
(the keys of a few retrieval heads).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmi_cli.attention.clusters import clustered
from lmi_cli.attention.int8 import dequantize, quantize
from lmi_cli.attention.stored import KeyBlock, KeyClusters
from lmi_cli.cache.pool import BlockPool

BLOCK_TOKENS = 4096
_CLUSTER_PARTS = ("centroid", "cluster")


@dataclass(slots=True)
class StoredBlock:
    """At most ``BLOCK_TOKENS`` consecutive tokens of one layer.

    Attributes:
        parts: By name, tensors ``[B, heads, capacity, .]``: ``key``, ``value`` in a store of both,
            ``key_scale`` and ``value_scale`` where these are in eight bits.
        start: True position of the first token.
        tokens: Tokens written so far.
        clusters: Their keys in clusters; None if these were not asked for since the last change.
    """

    parts: dict[str, Tensor]
    start: int
    tokens: int = 0
    clusters: KeyClusters | None = None

    @property
    def capacity(self) -> int:
        """Number of tokens that fit."""
        return self.parts["key"].shape[2]

    def live(self, name: str) -> Tensor | None:
        """The written tokens of a part, dequantized; None if there is no such part."""
        part = self.written(name)
        return None if part is None else dequantize(part, self.written(f"{name}_scale"))

    def written(self, name: str) -> Tensor | None:
        """The written tokens of a part as they are kept; None if there is no such part."""
        part = self.parts.get(name)
        return None if part is None else part[:, :, : self.tokens]

    def clustered(self) -> KeyClusters | None:
        """The keys in clusters, which are made if there are none; None for an empty block."""
        if self.clusters is None and self.tokens and (key := self.live("key")) is not None:
            self.clusters = clustered(key)
        return self.clusters


class TokenStore:
    """Keys, or keys and values, of every token of a document, by layer.

    Args:
        heads: By layer, the key heads that are kept, ascending; None keeps all of that layer.
        with_values: Whether values are kept too.
        first: True position of the first token that is kept.
        int8: Whether keys and values are kept in eight bits, in half the memory.
        clusters: Whether the keys are saved in clusters too, so that no search has to make them.
        pool: Where the blocks come from.
    """

    def __init__(
        self,
        heads: Mapping[int, Sequence[int] | None],
        *,
        with_values: bool,
        first: int = 0,
        int8: bool = False,
        clusters: bool = False,
        pool: BlockPool | None = None,
    ) -> None:
        self.heads = {
            layer: None if chosen is None else tuple(chosen) for layer, chosen in heads.items()
        }
        self.with_values = with_values
        self.first = first
        self.int8 = int8
        self.clusters = clusters
        self.pool = pool or BlockPool()
        self._blocks: dict[int, list[StoredBlock]] = {layer: [] for layer in self.heads}

    def append(self, layer: int, key: Tensor, value: Tensor, position: int) -> None:
        """Add tokens, un-rotated; a layer that is not kept is ignored.

        Args:
            layer: Zero-based index.
            key: ``[B, Hkv, n, D]``.
            value: ``[B, Hkv, n, Dv]``.
            position: True position of the first of them.
        """
        if layer not in self._blocks:
            return
        chosen = self.heads[layer]
        if chosen is not None:
            key, value = key[:, chosen], value[:, chosen]
        done = max(0, self.first - position)
        if done >= key.shape[2]:
            return
        parts = self._parts(key[:, :, done:], value[:, :, done:])
        position += done
        blocks = self._blocks[layer]
        done, count = 0, parts["key"].shape[2]
        while done < count:
            if not blocks or blocks[-1].tokens == BLOCK_TOKENS:
                blocks.append(self._new_block(parts, position + done))
            elif blocks[-1].tokens == blocks[-1].capacity:
                blocks[-1] = self._copied(blocks[-1])
            block = blocks[-1]
            step = min(block.capacity - block.tokens, count - done)
            for name, part in parts.items():
                columns = slice(block.tokens, block.tokens + step)
                block.parts[name][:, :, columns] = part[:, :, done : done + step]
            block.tokens += step
            block.clusters = None
            done += step

    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        for blocks in self._blocks.values():
            while blocks and blocks[-1].start >= position:
                blocks.pop()
            if blocks and (kept := position - blocks[-1].start) < blocks[-1].tokens:
                blocks[-1].tokens, blocks[-1].clusters = kept, None

    def fork(self, pool: BlockPool | None = None) -> "TokenStore":
        """An independent store of the same tokens; full blocks are shared.

        Args:
            pool: Where the blocks of the fork come from.
        """
        other = TokenStore(
            self.heads,
            with_values=self.with_values,
            first=self.first,
            int8=self.int8,
            clusters=self.clusters,
            pool=pool or self.pool,
        )
        for layer, blocks in self._blocks.items():
            other._blocks[layer] = [
                block if block.tokens == BLOCK_TOKENS else other._copied(block) for block in blocks
            ]
        return other

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A description for JSON, and tensors by name for :meth:`restore`."""
        description = {
            "heads": {
                str(layer): None if heads is None else list(heads)
                for layer, heads in self.heads.items()
            },
            "with_values": self.with_values,
            "first": self.first,
            "int8": self.int8,
        } | ({"clusters": True} if self.clusters else {})
        tensors = {
            self.tensor_name(layer, number, part): tensor[:, :, : block.tokens]
            for layer, blocks in self._blocks.items()
            for number, block in enumerate(blocks)
            for part, tensor in block.parts.items()
        }
        if self.clusters:
            for layer, blocks in self._blocks.items():
                for number, block in enumerate(blocks):
                    names = (self.tensor_name(layer, number, part) for part in _CLUSTER_PARTS)
                    tensors |= zip(names, block.clustered() or (), strict=False)
        return description, tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`save` returned, in an empty store of the same description.

        Raises:
            KeyError: A tensor is missing.
            ValueError: The tensors are not those of whole blocks, or of as many tokens everywhere.
        """
        names = set[str]()
        for layer, blocks in self._blocks.items():
            start, number = self.first, 0
            while (place := self.tensor_name(layer, number, "key")) in tensors:
                found = {name: self.tensor_name(layer, number, name) for name in self._part_names}
                parts = {name: tensors[at] for name, at in found.items()}
                tokens = parts["key"].shape[2]
                if blocks and blocks[-1].tokens != BLOCK_TOKENS:
                    raise ValueError(f"{place} follows a block that is not full")
                if not 0 < tokens <= BLOCK_TOKENS or any(
                    part.shape[2] != tokens for part in parts.values()
                ):
                    raise ValueError(f"{place} and its companions do not have the same tokens")
                blocks.append(StoredBlock(parts, start, tokens))
                names.update(found.values())
                if self.clusters:
                    more = [self.tensor_name(layer, number, part) for part in _CLUSTER_PARTS]
                    blocks[-1].clusters = _restored(*(tensors[at] for at in more), tokens=tokens)
                    names.update(more)
                start, number = start + tokens, number + 1
        if names != tensors.keys():
            raise ValueError(f"there is no place for {min(tensors.keys() - names)}")
        if len({sum(block.tokens for block in blocks) for blocks in self._blocks.values()}) > 1:
            raise ValueError("its layers do not have the same tokens")

    @staticmethod
    def tensor_name(layer: int, block: int, part: str) -> str:
        """Name of a tensor in what :meth:`save` returns."""
        return f"{layer}.{block:06d}.{part}"

    def stored(self, layer: int) -> list[StoredBlock]:
        """The blocks of a layer, in stream order."""
        return self._blocks[layer]

    def key_blocks(self, layer: int, *, clusters: bool = False) -> Iterator[KeyBlock]:
        """Keys and values of a layer, in stream order, and the keys in clusters if these are asked.

        Raises:
            ValueError: The store keeps no values.
        """
        for block in self._blocks[layer]:
            key, value = block.written("key"), block.written("value")
            if key is None or value is None:
                raise ValueError("this store keeps no values")
            scales = (block.written("key_scale"), block.written("value_scale"))
            found = block.clustered() if clusters else None
            yield KeyBlock(key, value, block.start, *scales, found)

    def cluster(self) -> Iterator[int]:
        """Put the keys of all layers in clusters, and yield after each block, of so many keys.

        Blocks whose keys are in clusters already are left out.
        """
        for blocks in self._blocks.values():
            for block in blocks:
                if block.clusters is None and block.clustered() is not None:
                    yield block.tokens

    @property
    def unclustered(self) -> int:
        """Keys of all layers that are in no cluster yet."""
        blocks = (block for blocks in self._blocks.values() for block in blocks)
        return sum(block.tokens for block in blocks if block.clusters is None)

    def keys(self, layer: int) -> Iterator[Tensor]:
        """Keys of a layer, ``[B, heads, n, D]`` a block, in stream order."""
        for block in self._blocks[layer]:
            key = block.live("key")
            if key is not None:
                yield key

    @property
    def tokens(self) -> int:
        """Tokens kept of each layer."""
        return sum(block.tokens for block in next(iter(self._blocks.values()), []))

    @property
    def nbytes(self) -> int:
        """Bytes allocated, in RAM and in files."""
        return sum(
            part.nbytes
            for blocks in self._blocks.values()
            for block in blocks
            for part in (*block.parts.values(), *(block.clusters or ()))
        )

    @property
    def _part_names(self) -> list[str]:
        names = ["key", "value"] if self.with_values else ["key"]
        return [*names, *(f"{name}_scale" for name in names)] if self.int8 else names

    def _parts(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """The parts of a block, by name."""
        given = {"key": key, "value": value} if self.with_values else {"key": key}
        if not self.int8:
            return given
        parts = {}
        for name, tensor in given.items():
            parts[name], parts[f"{name}_scale"] = quantize(tensor)
        return parts

    def _copied(self, old: StoredBlock) -> StoredBlock:
        """The same tokens in a block of full capacity."""
        block = self._new_block(old.parts, old.start)
        block.tokens, block.clusters = old.tokens, old.clusters
        for name, part in old.parts.items():
            block.parts[name][:, :, : old.tokens] = part[:, :, : old.tokens]
        return block

    def _new_block(self, like: Mapping[str, Tensor], start: int) -> StoredBlock:
        parts = {}
        for name, part in like.items():
            shape = (part.shape[0], part.shape[1], BLOCK_TOKENS, part.shape[3])
            parts[name] = self.pool.empty(shape, part.dtype, part.device)
        return StoredBlock(parts, start)


def _restored(centroid: Tensor, cluster: Tensor, *, tokens: int) -> KeyClusters:
    """Clusters of so many saved keys.

    Raises:
        ValueError: They are not clusters of these keys.
    """
    if cluster.shape[2] != tokens or not 0 < centroid.shape[2] <= tokens:
        raise ValueError(f"its clusters are not those of {tokens:,} keys")
    return KeyClusters.of(centroid, cluster)
