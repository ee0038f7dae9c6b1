"""Softmax attention over several key ranges at once, each in its own band of true distance.

The queries are cut into tiles of consecutive rows. For each tile only the columns that some row can
see are multiplied, so the cost is that of the visible band, and only the two edges of the band need
a mask. The query heads that share a key head are folded into rows of one matrix product.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lmi_cli.attention.ranges import KeyRange
from lmi_cli.native import attention as native

_TILE_ROWS = 128
_FEW_ROWS = 16

# Scores computed at once: on a CPU they should stay in its cache between the two products.
_SCORES_AT_ONCE = {"cpu": 1 << 20, "gpu": 1 << 26}


def attend(
    ranges: Sequence[KeyRange],
    *,
    query_start: int,
    softcap: float | None = None,
    with_lse: bool = False,
    note: Callable[[str], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One softmax over all the keys that each query sees in ``ranges``.

    Scores are in the dtype of the queries, or in float32 where the library in C computes or ALiBi
    takes something off them; the softmax accumulates in float32 or wider.

    Args:
        ranges: At least one; their queries have the same shape.
        query_start: True position of the first query; the others follow it.
        softcap: If given, scores first pass through ``softcap * tanh(score / softcap)``.
        with_lse: Return the log-sum-exp as well, for :func:`merge`.
        note: Told what computes it: ``C``, or ``torch`` with the reason.

    Returns:
        The output ``[B, H, Q, Dv]`` in the dtype of the queries, and the log-sum-exp of the scores
        ``[B, H, Q]`` in float32 or wider, or None. A query that sees nothing gives zeros and
        ``-inf``.

    Raises:
        ValueError: Scores are to be capped, and lowered by ALiBi: no order of the two is defined.
    """
    if softcap is not None and any(keys.alibi is not None for keys in ranges):
        raise ValueError("scores that are capped cannot be lowered by ALiBi")
    in_c = native.can(ranges)
    if note is not None:
        note("C" if in_c else f"torch, since {native.obstacle(ranges)}")
    if in_c:
        return native.attend(ranges, query_start=query_start, with_lse=with_lse, softcap=softcap)
    batch, heads, queries, _ = ranges[0].query.shape
    key_heads = ranges[0].key.shape[1]
    output = ranges[0].query.new_empty(
        batch, key_heads, heads // key_heads, queries, ranges[0].value.shape[-1]
    )
    wide = torch.promote_types(output.dtype, torch.float32)
    lse = output.new_empty(output.shape[:-1], dtype=wide) if with_lse else None
    for start in range(0, queries, _TILE_ROWS):
        rows = slice(start, min(start + _TILE_ROWS, queries))
        first, last = query_start + rows.start, query_start + rows.stop - 1
        columns = [keys.columns(first, last) for keys in ranges]
        visible = sum(stop - begin for begin, stop in columns)
        folded = heads // key_heads * (rows.stop - rows.start)
        budget = _SCORES_AT_ONCE["cpu" if output.device.type == "cpu" else "gpu"]
        step = max(1, budget // max(1, batch * folded * visible))
        for head in range(0, key_heads, step):
            group = slice(head, head + step)
            out, tile_lse = _attend_tile(
                ranges, columns, rows, group, first=first, softcap=softcap, with_lse=with_lse
            )
            output[:, group, :, rows] = out
            if lse is not None and tile_lse is not None:
                lse[:, group, :, rows] = tile_lse
    shape = (batch, heads, queries)
    return output.view(*shape, -1), None if lse is None else lse.view(shape)


def _attend_tile(
    ranges: Sequence[KeyRange],
    columns: Sequence[tuple[int, int]],
    rows: slice,
    group: slice,
    *,
    first: int,
    softcap: float | None,
    with_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """Some rows of some key heads: ``[B, heads, folded, rows, Dv]`` and its log-sum-exp.

    Args:
        ranges: As for :func:`attend`.
        columns: The keys of each range that some row sees.
        rows: The queries of this tile.
        group: The key heads of this tile.
        first: True position of the first row.
        softcap: As for :func:`attend`.
        with_lse: As for :func:`attend`.
    """
    query = ranges[0].query
    batch, key_heads = query.shape[0], ranges[0].key.shape[1]
    folds = query.shape[1] // key_heads
    heads = len(range(*group.indices(key_heads)))
    count = rows.stop - rows.start
    shape = (batch, heads, folds, count)
    total = sum(stop - start for start, stop in columns)
    wide = torch.promote_types(query.dtype, torch.float32)
    if total == 0:
        nothing = query.new_zeros(*shape, ranges[0].value.shape[-1])
        return nothing, query.new_full(shape, -math.inf, dtype=wide)

    # Far from a query, what ALiBi takes off is large: a bfloat16 would keep nothing of the product.
    biased = any(keys.alibi is not None for keys in ranges)
    dtype = wide if biased else query.dtype
    scores = query.new_empty(batch * heads, folds * count, total, dtype=dtype)
    edge = 0
    for keys, (start, stop) in zip(ranges, columns, strict=True):
        if start == stop:
            continue
        part = scores[:, :, edge : edge + stop - start]
        edge += stop - start
        tile = keys.query.unflatten(1, (key_heads, folds))[:, group, :, rows]
        product = part if dtype == query.dtype else query.new_empty(part.shape)
        _multiply(
            tile.reshape(batch * heads, folds * count, -1),
            keys.key[:, group, start:stop].flatten(0, 1).transpose(1, 2),
            product,
        )
        if product is not part:
            part.copy_(product)
        if keys.alibi is not None:
            by_head = part.view(batch, heads * folds, count, -1)
            members = slice(group.start * folds, group.start * folds + heads * folds)
            keys.alibi.lower(by_head, members, rows, slice(start, stop))
        if softcap is not None:
            part.div_(softcap).tanh_().mul_(softcap)
        hide_edges(part.unflatten(1, (folds, count)), keys, first, start, stop)

    weights = torch.softmax(scores, dim=-1)
    blind = _rows_that_see_nothing(ranges, rows, first)
    if blind is not None:
        weights.unflatten(1, (folds, count))[:, :, blind] = 0.0
    lse = _log_sum_exp(scores, weights).view(shape) if with_lse else None
    weights = weights.to(query.dtype)
    out = query.new_empty(batch * heads, folds * count, ranges[0].value.shape[-1])
    edge = 0
    for keys, (start, stop) in zip(ranges, columns, strict=True):
        if start == stop:
            continue
        share = weights[:, :, edge : edge + stop - start]
        value = keys.value[:, group, start:stop].flatten(0, 1)
        _multiply(share, value, out, add=edge > 0)
        edge += stop - start
    return out.view(*shape, -1), lse


def _multiply(left: Tensor, right: Tensor, out: Tensor, *, add: bool = False) -> None:
    """``out = left @ right``, or ``out += left @ right``, all ``[n, ., .]``.

    On a CPU the libraries copy a batch of slices to transpose it. So with few rows the transposed
    product is computed instead, and with many rows one matrix at a time, which is also a third
    faster.
    """
    if out.device.type == "cpu" and left.shape[1] > _FEW_ROWS:
        for one, other, into in zip(left, right, out, strict=True):
            if add:
                into.addmm_(one, other)
            else:
                torch.mm(one, other, out=into)
    elif out.device.type == "cpu" and right.stride(-1) != 1:
        product = torch.bmm(right.mT, left.mT).mT
        out.add_(product) if add else out.copy_(product)
    else:
        torch.baddbmm(out, left, right, beta=float(add), out=out)


def _log_sum_exp(scores: Tensor, weights: Tensor) -> Tensor:
    """Log-sum-exp over the last dimension, from the scores and their softmax.

    The largest weight is ``exp(peak - lse)``, which is never so small that it vanishes. A row
    without a score has the peak ``-inf`` and weights of zero.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    peak = scores.amax(-1).to(wide)
    return torch.where(peak == -math.inf, peak, peak - weights.amax(-1).to(wide).log())


def _rows_that_see_nothing(ranges: Sequence[KeyRange], rows: slice, first: int) -> Tensor | None:
    """Indices of the rows for which every range is empty; None if there are none."""
    count = rows.stop - rows.start
    for keys in ranges:
        end = keys.key_start + keys.key.shape[2]
        if keys.nearest == 0 and keys.key_start <= first and first + count <= end:
            return None  # every row sees itself
    blind = [
        row
        for row in range(count)
        if all(
            start == stop for start, stop in (k.columns(first + row, first + row) for k in ranges)
        )
    ]
    return torch.tensor(blind, device=ranges[0].query.device) if blind else None


def hide_edges(scores: Tensor, keys: KeyRange, first: int, start: int, stop: int) -> None:
    """Put -inf where a row of a tile of scores (``[..., rows, columns]``) cannot see a column.

    Args:
        scores: Of consecutive queries and the keys ``start`` to ``stop``.
        keys: The range that they belong to.
        first: True position of the first row.
        start: Column of the first key.
        stop: Column behind the last key.
    """
    count, columns = scores.shape[-2], stop - start
    # Row r sees column c while  nearest <= (first + r) - (key_start + start + c) < farthest.
    offset = first - keys.key_start - start
    near = offset - keys.nearest
    edge = max(near + 1, 0)  # columns before it are seen even by the first row
    if edge < columns:
        later = _later(count, columns - edge, near - edge, scores.device)
        scores[..., edge:].masked_fill_(later, -math.inf)
    if keys.farthest is not None:
        far = offset - keys.farthest
        edge = min(far + count, columns)  # columns from it on are seen even by the last row
        if edge > 0:
            later = _later(count, edge, far, scores.device)
            scores[..., :edge].masked_fill_(~later, -math.inf)


@lru_cache(maxsize=64)
def _later(rows: int, columns: int, shift: int, device: torch.device) -> Tensor:
    """Where a column lies beyond the diagonal: ``column > row + shift``, ``[rows, columns]``."""
    row = torch.arange(rows, device=device)[:, None]
    return torch.arange(columns, device=device) > row + shift


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine attention over disjoint sets of keys into attention over their union.

    Args:
        parts: Pairs of output ``[B, H, Q, Dv]`` and log-sum-exp ``[B, H, Q]``, as :func:`attend`
            returns them.

    Returns:
        The same pair for the union of the keys.
    """
    lse = torch.logsumexp(torch.stack([part[1] for part in parts]), dim=0)
    floor = lse.masked_fill(lse == -math.inf, 0.0)
    output = sum(out.to(lse.dtype) * (part - floor).exp()[..., None] for out, part in parts)
    return torch.as_tensor(output).to(parts[0][0].dtype), lse


def with_sinks(output: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with one more score in each softmax, which has no value.

    Such learned sinks let a head attend to nothing (gpt-oss, arXiv 2508.10925, section 2).

    Args:
        output: ``[B, H, Q, Dv]``, attention to everything that a query sees; it is overwritten.
        lse: ``[B, H, Q]``, the log-sum-exp of the scores.
        sinks: ``[H]``, the score of each head.

    Returns:
        Output and log-sum-exp.
    """
    sink = sinks.to(lse)[:, None].expand_as(lse)
    output.mul_((lse - sink).sigmoid()[..., None])
    return output, torch.logaddexp(lse, sink)
