"""Keys and values of a whole document, un-rotated, in blocks.

The same structure serves as the middle memory (all keys and values of every layer) and as the index
(the keys of a few retrieval heads).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lmi_cli.attention.topk import KeyBlock
from lmi_cli.cache.pool import BlockPool

BLOCK_TOKENS = 4096


@dataclass(slots=True)
class StoredBlock:
    """Keys and values of at most ``BLOCK_TOKENS`` consecutive tokens of one layer.

    Attributes:
        key: ``[B, heads, capacity, D]``.
        value: ``[B, heads, capacity, Dv]``; None in a store of keys alone.
        start: True position of the first token.
        tokens: Tokens written so far.
    """

    key: Tensor
    value: Tensor | None
    start: int
    tokens: int = 0


class TokenStore:
    """What is kept of every token of a document, layer by layer.

    Args:
        heads: By layer, the key heads that are kept, ascending; None keeps all of that layer.
        with_values: Whether values are kept too.
        first: True position of the first token that is kept.
        pool: Where the blocks come from.
    """

    def __init__(
        self,
        heads: Mapping[int, Sequence[int] | None],
        *,
        with_values: bool,
        first: int = 0,
        pool: BlockPool | None = None,
    ) -> None:
        self.heads = {
            layer: None if chosen is None else tuple(chosen) for layer, chosen in heads.items()
        }
        self.with_values = with_values
        self.first = first
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
        blocks = self._blocks[layer]
        done = max(0, self.first - position)
        while done < key.shape[2]:
            if not blocks or blocks[-1].tokens == BLOCK_TOKENS:
                blocks.append(self._new_block(key, value, position + done))
            elif blocks[-1].tokens == blocks[-1].key.shape[2]:
                blocks[-1] = self._copied(blocks[-1])
            block = blocks[-1]
            count = min(block.key.shape[2] - block.tokens, key.shape[2] - done)
            columns = slice(block.tokens, block.tokens + count)
            block.key[:, :, columns] = key[:, :, done : done + count]
            if block.value is not None:
                block.value[:, :, columns] = value[:, :, done : done + count]
            block.tokens += count
            done += count

    def truncate(self, position: int) -> None:
        """Let go of the tokens from ``position`` on."""
        for blocks in self._blocks.values():
            while blocks and blocks[-1].start >= position:
                blocks.pop()
            if blocks:
                blocks[-1].tokens = min(blocks[-1].tokens, position - blocks[-1].start)

    def fork(self, pool: BlockPool | None = None) -> "TokenStore":
        """An independent store of the same tokens; full blocks are shared.

        Args:
            pool: Where the blocks of the fork come from.
        """
        other = TokenStore(
            self.heads, with_values=self.with_values, first=self.first, pool=pool or self.pool
        )
        for layer, blocks in self._blocks.items():
            other._blocks[layer] = [
                block if block.tokens == BLOCK_TOKENS else other._copied(block) for block in blocks
            ]
        return other

    def restore(self, layer: int, blocks: Sequence[StoredBlock]) -> None:
        """Put back what :meth:`stored` gave, blocks without room behind their tokens included."""
        self._blocks[layer] = list(blocks)

    def stored(self, layer: int) -> list[StoredBlock]:
        """The blocks of a layer, in stream order."""
        return self._blocks[layer]

    def key_blocks(self, layer: int) -> Iterator[KeyBlock]:
        """Keys and values of a layer, in stream order.

        Raises:
            ValueError: The store keeps no values.
        """
        for block in self._blocks[layer]:
            if block.value is None:
                raise ValueError("this store keeps no values")
            yield KeyBlock(
                block.key[:, :, : block.tokens], block.value[:, :, : block.tokens], block.start
            )

    def keys(self, layer: int) -> Iterator[Tensor]:
        """Keys of a layer, ``[B, heads, n, D]`` a block, in stream order."""
        for block in self._blocks[layer]:
            yield block.key[:, :, : block.tokens]

    @property
    def tokens(self) -> int:
        """Tokens kept of each layer."""
        return sum(block.tokens for block in next(iter(self._blocks.values()), []))

    @property
    def nbytes(self) -> int:
        """Bytes allocated, in RAM and in files."""
        return sum(
            block.key.nbytes + (0 if block.value is None else block.value.nbytes)
            for blocks in self._blocks.values()
            for block in blocks
        )

    def _copied(self, old: StoredBlock) -> StoredBlock:
        """The same tokens with the room of a new block."""
        block = self._new_block(old.key, old.key if old.value is None else old.value, old.start)
        block.tokens = old.tokens
        block.key[:, :, : old.tokens] = old.key[:, :, : old.tokens]
        if block.value is not None and old.value is not None:
            block.value[:, :, : old.tokens] = old.value[:, :, : old.tokens]
        return block

    def _new_block(self, key: Tensor, value: Tensor, start: int) -> StoredBlock:
        def empty(like: Tensor) -> Tensor:
            shape = (like.shape[0], like.shape[1], BLOCK_TOKENS, like.shape[3])
            return self.pool.empty(shape, like.dtype, like.device)

        return StoredBlock(empty(key), empty(value) if self.with_values else None, start)
