"""Keys and values of a whole stream in blocks, of which queries look up the best.

InfLLM, section 3.2 (Xiao et al. 2024, arXiv 2402.04617). Streams are read one by one here, so the
first dimension of all tensors is 1.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lmi_cli.attention.segment import Blocks, Lookup
from lmi_cli.cache.buffer import SlidingBuffer
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.track import CachedTrack, Span

_SEGMENT_TOKENS = 4096


class FoundBlocks(NamedTuple):
    """What some consecutive queries of a pass have looked up; valid until the next look.

    Attributes:
        rows: The queries.
        key: ``[1, Hkv, k, D]``, un-rotated; no token for queries that found no block.
        value: ``[1, Hkv, k, Dv]``.
    """

    rows: slice
    key: Tensor
    value: Tensor


class _Searching(NamedTuple):
    """What changes with every pass, and is needed again if one is undone.

    Attributes:
        position: True position of the next token.
        mass: Attention that the tokens in no finished block have received, ``[1, Hkv, n, 1]``.
        queries: The last queries, summed over the heads that share a key head, ``[1, Hkv, m, D]``.
        chosen: Blocks that were looked up last, int64, ``[1, 1, k, 1]``, on the CPU.
    """

    position: int
    mass: Tensor
    queries: Tensor
    chosen: Tensor


class BlockMemory(CachedTrack):
    """What :class:`Blocks` keeps.

    A finished block has a representative in each key head: the mean of the keys that received most
    attention from the queries in whose window they were. Keys are kept at position 0. A span has
    the tokens that are in no finished block.

    Args:
        retention: Sizes.
        chunk: Largest number of tokens appended at once.
        pool: Where the memory of finished blocks comes from.
    """

    def __init__(self, retention: Blocks, chunk: int, pool: BlockPool) -> None:
        self.retention = retention
        self._pool = pool
        self._chunk = chunk
        self._recent = SlidingBuffer(retention.unfinished, chunk)
        self._origin = 0
        self._blocks = 0
        self._stored = 0  # of these, in memory of our own
        self._representatives: Tensor | None = None
        self._segments: list[tuple[Tensor, Tensor]] = []
        self._full = True  # nothing more may be written to the last segment
        self._slots: list[int] = []
        self._slot_tensors: tuple[Tensor, Tensor] | None = None
        self._searching: _Searching | None = None
        self._before: _Searching | None = None

    def takes(self, count: int) -> int:
        """All of them."""
        return count

    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add tokens of one pass; blocks are finished before if it begins at a multiple."""
        if self._searching is None:
            self._origin = position
            none = key[:, :, :0]
            self._representatives = none.clone()
            wide = torch.promote_types(key.dtype, torch.float32)
            mass = torch.zeros(*none.shape[:3], 1, dtype=wide, device=key.device)
            self._searching = _Searching(
                position, mass, none.to(wide), torch.zeros(1, 1, 0, 1, dtype=torch.int64)
            )
        self._finish(position)
        self._recent.append(key, value, position)
        self._before = self._searching
        mass = self._searching.mass
        count = position + key.shape[2] - self._unfinished - mass.shape[2]
        if count > 0:
            mass = torch.cat((mass, mass.new_zeros(*mass.shape[:2], count, 1)), 2)
        self._searching = self._searching._replace(position=position + key.shape[2], mass=mass)

    def look_up(self, query: Tensor, position: int, lookup: Lookup) -> Iterator[FoundBlocks]:
        """Choose blocks for the queries of a pass; those that share a choice come together.

        Args:
            query: ``[1, H, n, D]``, rotated to the position at which blocks are attended to.
            position: True position of the first query.
            lookup: How many blocks, and how often they are chosen.
        """
        searching = self._known
        past, count = searching.queries, query.shape[2]
        wide = query.to(past.dtype).unflatten(1, (past.shape[1], -1))
        history = torch.cat((past, wide.sum(2)), 2)
        offset = position - self._origin
        places = [row for row in range(count) if (offset + row) % lookup.every == 0]
        chosen = searching.chosen
        starts, choices = [0], [chosen]
        if places:
            means = []
            for row in places:
                end = past.shape[2] + row + 1
                means.append(history[:, :, max(0, end - lookup.every) : end].mean(2))
            found = self._best(torch.stack(means, 2), lookup.blocks)
            for row, blocks in zip(places, found, strict=True):
                if row == 0:
                    choices = [blocks]
                elif not torch.equal(blocks, choices[-1]):
                    starts.append(row)
                    choices.append(blocks)
        self._searching = searching._replace(
            queries=history[:, :, -max(1, lookup.every - 1) :].clone(), chosen=choices[-1]
        )
        for start, stop, blocks in zip(starts, [*starts[1:], count], choices, strict=True):
            yield FoundBlocks(slice(start, stop), *self._gathered(blocks.flatten().tolist()))

    def notice(self, mass: Tensor, start: int) -> None:
        """Add attention that tokens have received, ``[1, Hkv, n]``; the first is at ``start``."""
        searching = self._known
        done = max(0, self._unfinished - start)
        mass = mass[:, :, done:]
        total = searching.mass.clone()
        at = start + done - self._unfinished
        total[:, :, at : at + mass.shape[2], 0] += mass
        self._searching = searching._replace(mass=total)

    @property
    def span(self) -> Span | None:
        """The tokens that belong to no finished block and are no starting tokens."""
        span = self._recent.span
        if span is None:
            return None
        gone = min(max(0, self._unfinished - span.start), span.tokens)
        return Span(span.key, span.value, span.begin + gone, span.tokens - gone, span.start + gone)

    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on, which the last pass has added."""
        if self._searching is None or position >= self._searching.position:
            return
        if self._before is None or position != self._before.position:
            raise RuntimeError(f"tokens before {position:,} cannot be restored")
        self._recent.truncate(position)
        self._searching, self._before = self._before, None

    def clone(self) -> "BlockMemory":
        """An independent copy; finished blocks are shared, and new ones go to memory of its own."""
        # What a fork adds is gone with it, so it does not count against the budget of the stream.
        other = BlockMemory(self.retention, self._chunk, self._pool.fresh())
        other._recent = self._recent.clone()
        other._origin, other._blocks = self._origin, self._blocks
        other._representatives = self._representatives
        other._segments = list(self._segments)
        if other._segments:
            used = self._in_last_segment * self.retention.block
            key, value = other._segments[-1]
            other._segments[-1] = key[:, :, :used], value[:, :, :used]
        other._searching = self._searching
        return other

    def save(self) -> dict[str, Tensor]:
        """Recent tokens, finished blocks, and what they are chosen by."""
        if self._searching is None or self._representatives is None:
            return {}
        key, value = self._all_finished()
        return {
            **{f"recent_{name}": tensor for name, tensor in self._recent.save().items()},
            "key": key,
            "value": value,
            "representatives": self._representatives,
            "mass": self._searching.mass,
            "queries": self._searching.queries,
            "chosen": self._searching.chosen,
            "origin": torch.tensor(self._origin),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned."""
        if not tensors:
            return
        key, value = tensors["key"], tensors["value"]
        self._origin = int(tensors["origin"])
        self._representatives = tensors["representatives"]
        self._blocks = self._representatives.shape[2]
        chosen = tensors["chosen"].cpu()
        recent = {at: tensors[f"recent_{at}"] for at in ("key", "value", "start")}
        unfinished = position - self._unfinished
        if (
            not 0 <= self._origin < position
            or self._blocks != self.retention.finished(position - 1 - self._origin)
            or not key.shape[2] == value.shape[2] == self._blocks * self.retention.block
            or tensors["mass"].shape[2] != max(0, unfinished)
            or (chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < self._blocks)
            or not bool((chosen.flatten()[1:] > chosen.flatten()[:-1]).all())
            or int(recent["start"]) + recent["key"].shape[2] != position
            or recent["key"].shape[2] != recent["value"].shape[2]
            or recent["key"].shape[2] < max(1, unfinished)
        ):
            raise ValueError(f"{self._blocks:,} blocks at position {position:,}")
        self._recent.append(recent["key"], recent["value"], int(recent["start"]))
        self._segments = [(key, value)] if self._blocks else []
        self._searching = _Searching(position, tensors["mass"], tensors["queries"], chosen)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values, in memory and in files."""
        tensors = [*self._segments, self._slot_tensors or ()]
        return self._recent.nbytes + sum(each.nbytes for pair in tensors for each in pair)

    @property
    def capacity(self) -> int:
        """Tokens allocated, live or not."""
        return self._recent.capacity + sum(key.shape[2] for key, _ in self._segments)

    @property
    def _known(self) -> _Searching:
        if self._searching is None:
            raise RuntimeError("there are no tokens yet")
        return self._searching

    @property
    def _unfinished(self) -> int:
        """True position of the first token behind the finished blocks."""
        return self._origin + self.retention.first + self._blocks * self.retention.block

    @property
    def _in_last_segment(self) -> int:
        """Blocks in the last segment; all others are full."""
        full = sum(key.shape[2] for key, _ in self._segments[:-1])
        return self._blocks - full // self.retention.block

    def _finish(self, position: int) -> None:
        """Make blocks of the tokens that are far enough from a pass at ``position``."""
        searching, size = self._known, self.retention.block
        wanted = self.retention.finished(position - self._origin)
        if wanted == self._blocks:
            return
        span = self._recent.span
        if span is None or self._representatives is None:
            raise RuntimeError("there are no tokens yet")
        means = [self._representatives]
        for _ in range(self._blocks, wanted):
            at = self._unfinished - span.start
            key, value = (x[:, :, at : at + size] for x in span.live)
            mass = searching.mass[:, :, :size]
            most = min(self.retention.representatives, size)
            best = mass.topk(most, 2).indices.expand(-1, -1, -1, key.shape[3])
            mean = key.gather(2, best).to(mass.dtype).mean(2, keepdim=True)
            means.append(mean.to(key.dtype))
            self._store(key, value)
            self._blocks += 1
            searching = searching._replace(mass=searching.mass[:, :, size:])
        self._representatives = torch.cat(means, 2)
        self._searching = searching

    def _store(self, key: Tensor, value: Tensor) -> None:
        self._stored += 1
        size, used = self.retention.block, self._in_last_segment
        if not self._full and used * size < self._segments[-1][0].shape[2]:
            for tensor, new in zip(self._segments[-1], (key, value), strict=True):
                tensor[:, :, used * size : (used + 1) * size] = new
            return
        # Small memories stay small, and so does what a fork adds.
        count = max(1, min(_SEGMENT_TOKENS // size, self._stored // 2))
        segment = []
        for new in (key, value):
            shape = (*new.shape[:2], count * size, new.shape[3])
            segment.append(self._pool.empty(shape, new.dtype, new.device))
            segment[-1][:, :, :size] = new
        self._segments.append((segment[0], segment[1]))
        self._full = False

    def _best(self, means: Tensor, count: int) -> list[Tensor]:
        """The best blocks, ascending, for mean queries ``[1, Hkv, n, D]`` at the blocks' distance.

        All heads of a layer share a choice: the products with the representatives are added up.
        """
        if self._representatives is None or self._blocks == 0:
            return [torch.zeros(1, 1, 0, 1, dtype=torch.int64) for _ in range(means.shape[2])]
        products = means @ self._representatives.to(means.dtype).mT
        order = products.sum(1)[0].sort(dim=-1, descending=True, stable=True).indices
        best = order[:, :count].sort(dim=-1).values.cpu()
        return [row.view(1, 1, -1, 1) for row in best]

    def _gathered(self, blocks: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of some blocks, in any order.

        Choices change little from one to the next, so blocks that are gathered already stay.
        """
        size, count = self.retention.block, len(blocks)
        like = self._recent.key, self._recent.value
        if self._slot_tensors is None or self._slot_tensors[0].shape[2] < count * size:
            shapes = [(*x.shape[:2], count * size, x.shape[3]) for x in like]
            key, value = (x.new_empty(s) for x, s in zip(like, shapes, strict=True))
            self._slot_tensors, self._slots = (key, value), [-1] * count
        del self._slots[count:]
        self._slots += [-1] * (count - len(self._slots))
        free = [slot for slot, block in enumerate(self._slots) if block not in blocks]
        for block in sorted(set(blocks) - set(self._slots)):
            slot = free.pop()
            columns = slice(slot * size, (slot + 1) * size)
            for into, tensor in zip(self._slot_tensors, self._finished(block), strict=True):
                into[:, :, columns] = tensor
            self._slots[slot] = block
        key, value = self._slot_tensors
        return key[:, :, : count * size], value[:, :, : count * size]

    def _finished(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block, ``[1, Hkv, block, .]``."""
        size = self.retention.block
        for key, value in self._segments:
            if (first := block * size) < key.shape[2]:
                return key[:, :, first : first + size], value[:, :, first : first + size]
            block -= key.shape[2] // size
        raise IndexError(f"no block {block}")

    def _all_finished(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all blocks, ``[1, Hkv, n, .]``."""
        like = self._recent.key[:, :, :0], self._recent.value[:, :, :0]
        count, parts = self._blocks * self.retention.block, zip(like, *self._segments, strict=True)
        key, value = (torch.cat(part, 2)[:, :, :count] for part in parts)
        return key, value
