"""Softmax attention over the best-matching of many keys, of which not all are scored.

A search chooses candidates for each query and head: keys that are scored one by one. Among them the
``k`` best are attended to, as in :mod:`lmi_cli.attention.topk`, which scores every key and is what
a search is compared with.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lmi_cli.attention import clusters, pruning
from lmi_cli.attention.segment import Search
from lmi_cli.attention.stored import KeyBlock, KeyScores, StoredKeys
from lmi_cli.attention.topk import attend_topk, topk_lowest_first, weighted

_CANDIDATES: dict[str, Callable[[KeyScores, Tensor, Tensor], Tensor]] = {
    "pruned": pruning.candidates,
    "clusters": clusters.candidates,
}

_NUMBERS_AT_ONCE = 1 << 26
"""Numbers in the keys that are scored for some queries at once."""


def attend_searched(
    query: Tensor,
    blocks: Iterable[KeyBlock],
    k: int,
    search: Search,
    *,
    query_start: int,
    nearest: int = 0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One softmax over the ``k`` best of the keys that a search finds.

    Each query and head has a budget: ``search.percent`` of the keys that it sees, rounded up, and
    at least ``k``. If that is all of them, the result is that of :func:`attend_topk`.

    Args:
        query: As for :func:`attend_topk`, like everything that is not named here.
        blocks: The keys, at position 0, in stream order without gaps.
        k: Number of keys attended to; among equally good candidates, the lowest positions win.
        search: How the candidates are chosen.
        query_start: True position of the first query.
        nearest: Smallest visible true distance, in tokens.
        softcap: If given, scores pass through it.

    Returns:
        What :func:`attend_topk` returns.

    Raises:
        ValueError: The search needs clusters and the blocks have none.
    """
    kept = list(blocks) if search.kind in _CANDIDATES else []
    if not kept:
        return attend_topk(
            query, blocks, k, query_start=query_start, nearest=nearest, softcap=softcap
        )
    stored = StoredKeys(kept)
    batch, heads, rows, size = query.shape
    numbers = max(1, batch * heads * stored.count * size * search.percent // 100)
    step = max(1, _NUMBERS_AT_ONCE // numbers)
    last = torch.arange(query_start, query_start + rows, device=query.device) - nearest
    seen = (last + 1 - stored.first).clamp(0, stored.count)
    parts = [
        _attend(part, stored, k, search, some, softcap)
        for part, some in zip(query.split(step, 2), seen.split(step), strict=True)
    ]
    outputs, lses = zip(*parts, strict=True)
    return torch.cat(outputs, 2), torch.cat(lses, 2)


def _attend(
    query: Tensor,
    stored: StoredKeys,
    k: int,
    search: Search,
    seen: Tensor,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Some rows of :func:`attend_searched`, which see the first ``seen`` keys."""
    shape = query.shape[:3]
    wide = torch.promote_types(query.dtype, torch.float32)
    if int(seen.max()) == 0:
        return torch.zeros_like(query), query.new_full(shape, -math.inf, dtype=wide)
    budget = torch.minimum((seen * search.percent + 99) // 100, seen).clamp(min=k)
    keys = KeyScores(query, stored)
    mask = _CANDIDATES[search.kind](keys, seen, budget)
    mask &= torch.arange(stored.count, device=query.device) < seen[:, None]
    row, number = mask.flatten(0, 2).nonzero(as_tuple=True)
    scores = keys.at(row, number)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    # One line of candidates for each query and head, in order of position, and nothing behind them.
    counts = mask.flatten(0, 2).sum(-1)
    lines = query.new_full((len(counts), max(k, int(counts.max()))), -math.inf, dtype=wide)
    place = torch.arange(len(row), device=query.device) - (counts.cumsum(0) - counts)[row]
    lines[row, place] = scores
    numbers = torch.zeros(lines.shape, dtype=number.dtype, device=query.device)
    numbers[row, place] = number
    score, index = topk_lowest_first(lines, k)
    row = torch.arange(len(counts), device=query.device).repeat_interleave(k)
    value = stored.values(query, row, numbers.gather(-1, index).flatten())
    return weighted(score.view(*shape, k), value.view(*shape, k, -1), query.dtype)
