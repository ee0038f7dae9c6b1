"""Keys in a tree of chunks, of which each level keeps the best only.

After Lee et al., "A Training-free Sub-quadratic Cost Transformer Model Serving Framework with
Hierarchically Pruned Attention", ICLR 2025 (arXiv 2406.09827), and Lee et al., "InfiniteHiP:
Extending Language Model Context Up to 3 Million Tokens on a Single GPU" (arXiv 2502.08910), section
4. Both rest on neighbouring keys having similar scores. There, a block of queries shares what it
keeps; here each query and head has its own.
"""

import torch
from torch import Tensor

from lmi_cli.attention.stored import KeyScores
from lmi_cli.attention.topk import topk_lowest_first

CHUNKS = (64, 16, 4)
"""Keys of a chunk at each level."""

WIDTH = 4
"""How many times the keys of the next level, or of the budget at the last one, a level keeps."""


def candidates(keys: KeyScores, seen: Tensor, budget: Tensor) -> Tensor:
    """The keys that each query scores one by one: those of the chunks left by the last level.

    The first level has the chunks of 64 keys, counted from the first stored key, that contain a key
    which the query sees; the next ones have the chunks of 16 and of 4 within those that were kept.
    Of the last level as many chunks are kept as hold the budget, of those before it 4 and 16 times
    as many keys, rounded up to whole chunks.

    A chunk is represented by one of the keys that the query sees, found by descending halves: of
    two halves, the one whose first key scores higher is entered, the left one of equals, until a
    single key is left. Its score is that of the chunk. Of ``n`` keys, the left half has ``n // 2``.

    Args:
        keys: Queries and keys.
        seen: Number of keys that each query sees, the first ones, ``[Q]``.
        budget: Number of keys for each query, ``[Q]``.

    Returns:
        A mask ``[B, H, Q, keys]``, in which keys that a query does not see may be set.
    """
    rows, last, device = keys.query.shape[:3], keys.stored.count, keys.query.device
    begin = torch.arange(0, last, CHUNKS[0], device=device).expand(*rows, -1)
    for level, size in enumerate(CHUNKS):
        wanted = budget * WIDTH ** (len(CHUNKS) - 1 - level)
        keep = -(-wanted // size)
        scores = _scores(keys, begin, torch.minimum(begin + size, seen[:, None]), size)
        best = topk_lowest_first(scores, min(int(keep.max()), scores.shape[-1]))
        kept = torch.arange(best[1].shape[-1], device=device) < keep[:, None]
        begin = begin.gather(-1, best[1]).masked_fill(~kept | (best[0] == -torch.inf), last)
        below = CHUNKS[level + 1] if level + 1 < len(CHUNKS) else 1
        # A chunk that was dropped has no keys: it begins behind the last one.
        parts = begin[..., None] + torch.arange(0, size, below, device=device)
        begin = parts.flatten(-2).clamp(max=last).sort(-1).values
    mask = torch.zeros(*rows, last + 1, dtype=torch.bool, device=device)
    return mask.scatter_(-1, begin, True)[..., :last]


def _scores(keys: KeyScores, begin: Tensor, end: Tensor, size: int) -> Tensor:
    """Score of the representative of each chunk, ``-inf`` for one without keys.

    Args:
        keys: Queries and keys.
        begin: First key of each chunk, ``[B, H, Q, C]``.
        end: The key behind the last one of each chunk.
        size: Keys of the largest chunk.
    """
    empty = begin >= end
    begin, end = begin.clone(), end.clone()
    best = _score(keys, begin, ~empty)
    while size > 1:
        middle = begin + (end - begin) // 2
        right = _score(keys, middle, middle > begin)
        enter = right > best
        best = torch.where(enter, right, best)
        begin, end = torch.where(enter, middle, begin), torch.where(enter, end, middle)
        size -= size // 2
    return best


def _score(keys: KeyScores, number: Tensor, present: Tensor) -> Tensor:
    """Score of the key of each number ``[B, H, Q, C]``; ``-inf`` where none is present."""
    row, _ = present.flatten(0, 2).nonzero(as_tuple=True)
    scores = torch.full(number.shape, -torch.inf, dtype=keys.dtype, device=number.device)
    return scores.masked_scatter_(present, keys.at(row, number[present]))
