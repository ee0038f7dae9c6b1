"""Softmax attention over the best-matching of many keys, all at one distance.

LM-Infinite, section 3.3 (arXiv 2308.16137): in each query head a query may attend to the ``k``
stored keys that match it best. The choice is exact: every key is scored.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lmi_cli.attention.int8 import dequantize
from lmi_cli.attention.stored import KeyBlock


def attend_topk(
    query: Tensor,
    blocks: Iterable[KeyBlock],
    k: int,
    *,
    query_start: int,
    nearest: int = 0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One softmax over the ``k`` best keys of each query and head.

    Args:
        query: ``[B, H, Q, D]``, rotated to the common distance of all keys, the score's scale
            applied.
        blocks: The keys, at position 0; may be on another device than the query.
        k: Number of keys attended to; among equally good keys, the lowest positions win.
        query_start: True position of the first query; the others follow it.
        nearest: Smallest visible true distance, in tokens.
        softcap: If given, scores first pass through ``softcap * tanh(score / softcap)``.

    Returns:
        The output ``[B, H, Q, Dv]`` in the dtype of the queries, and the log-sum-exp of the chosen
        scores ``[B, H, Q]`` in float32 or wider. A query that sees no key gives zeros and ``-inf``.
    """
    batch, heads, count, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    score = query.new_empty(batch, heads, count, 0, dtype=wide)
    value: Tensor | None = None
    for block in blocks:
        found = _best_of_block(query, block, k, query_start - nearest, softcap)
        if found is None:
            continue
        if value is None:
            score, value = found
            continue
        # Keys found before have lower positions, so a stable sort keeps them first among equals.
        scores = torch.cat((score, found[0]), -1)
        score, order = scores.sort(dim=-1, descending=True, stable=True)
        score, order = score[..., :k], order[..., :k]
        both = torch.cat((value, found[1]), -2)
        value = both.gather(-2, order[..., None].expand(*order.shape, both.shape[-1]))
    if value is None:
        lse = query.new_full((batch, heads, count), -math.inf, dtype=wide)
        return torch.zeros_like(query), lse
    return weighted(score, value, query.dtype)


def weighted(score: Tensor, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Softmax attention over chosen keys, and its log-sum-exp.

    Args:
        score: ``[..., k]``, float32 or wider; ``-inf`` where there is no key.
        value: ``[..., k, Dv]``.
        dtype: Of the output, ``[..., Dv]``.
    """
    lse = score.logsumexp(-1)
    weights = (score - lse.masked_fill(lse == -math.inf, 0.0)[..., None]).exp()
    output = (weights[..., None, :] @ value.to(score.dtype))[..., 0, :]
    return output.to(dtype), lse


def _best_of_block(
    query: Tensor, block: KeyBlock, k: int, last: int, softcap: float | None
) -> tuple[Tensor, Tensor] | None:
    """Scores ``[B, H, Q, <= k]`` and values of the best keys, best first; None if none is seen.

    Query number ``r`` sees the keys up to position ``last + r``.
    """
    batch, heads, count, _ = query.shape
    seen = min(block.key.shape[2], last + count - block.start)
    if seen <= 0:
        return None
    key = _seen_part(block.key, block.key_scale, seen, query.device)
    key_heads = key.shape[1]
    folds = heads // key_heads
    folded = query.reshape(batch, key_heads, folds * count, -1)
    scores = folded @ key.to(query.dtype).transpose(-1, -2)
    scores = scores.view(batch, heads, count, seen)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    always = last - block.start + 1  # keys that even the first query sees
    if always < seen:
        edge = max(always, 0)
        row = torch.arange(count, device=scores.device)[:, None]
        column = torch.arange(edge, seen, device=scores.device)
        scores[..., edge:].masked_fill_(column > row + last - block.start, -math.inf)
    score, index = topk_lowest_first(scores, min(k, seen))
    value = _seen_part(block.value, block.value_scale, seen, query.device)
    picked = index.view(batch, key_heads, -1)[..., None].expand(-1, -1, -1, value.shape[-1])
    values = value.gather(2, picked).view(*index.shape, value.shape[-1])
    return score.to(torch.promote_types(score.dtype, torch.float32)), values


def _seen_part(part: Tensor, scale: Tensor | None, seen: int, device: torch.device) -> Tensor:
    """The first ``seen`` keys or values of a block, dequantized."""
    whole = None if scale is None else scale[:, :, :seen]
    return dequantize(part[:, :, :seen], whole).to(device)


def topk_lowest_first(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest along the last dimension, best first, equals by ascending index.

    ``topk`` leaves the choice among equals open, so rows in which it had a choice are redone.
    """
    best, index = scores.topk(k, dim=-1)
    least = best[..., -1:]
    tied = (scores == least).sum(-1) > (best == least).sum(-1)
    if bool(tied.any()):
        rows, floor = scores[tied], least[tied]
        above, equal = rows > floor, rows == floor
        wanted = k - above.sum(-1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(-1) <= wanted))
        index[tied] = chosen.nonzero()[:, 1].view(-1, k)
    index = index.sort(dim=-1).values
    best, order = scores.gather(-1, index).sort(dim=-1, descending=True, stable=True)
    return best, index.gather(-1, order)
