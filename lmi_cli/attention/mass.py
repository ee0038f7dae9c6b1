"""How much attention each key receives from some queries."""

import torch
from torch import Tensor

from lmi_cli.attention.kernel import hide_edges
from lmi_cli.attention.ranges import KeyRange

_TILE_ROWS = 128


def key_mass(
    keys: KeyRange, lse: Tensor, *, query_start: int, softcap: float | None = None
) -> Tensor:
    """The sum of the softmax weights that each key gets, over queries and the heads that share it.

    Args:
        keys: The keys and the queries.
        lse: Log-sum-exp of all scores of each query, ``[B, H, Q]``, of these and of other keys.
        query_start: True position of the first query; the others follow it.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.

    Returns:
        ``[B, Hkv, K]`` in the dtype of ``lse``.
    """
    batch, heads, queries, _ = keys.query.shape
    key_heads, count = keys.key.shape[1], keys.key.shape[2]
    folds = heads // key_heads
    mass = lse.new_zeros(batch, key_heads, count)
    # Fresh memory for every tile would take longer than what is computed in it.
    most = folds * min(queries, _TILE_ROWS) * count
    products, scores = keys.query.new_empty(most), lse.new_empty(most)
    for begin in range(0, queries, _TILE_ROWS):
        rows = slice(begin, min(begin + _TILE_ROWS, queries))
        first, last = query_start + rows.start, query_start + rows.stop - 1
        start, stop = keys.columns(first, last)
        if start == stop:
            continue
        shape = (folds * (rows.stop - rows.start), stop - start)
        area = shape[0] * shape[1]
        for item in range(batch):
            for head in range(key_heads):
                group = slice(head * folds, (head + 1) * folds)
                tile = keys.query[item, group, rows].reshape(shape[0], -1)
                product, score = products[:area].view(shape), scores[:area].view(shape)
                torch.mm(tile, keys.key[item, head, start:stop].T, out=product)
                score.copy_(product)
                if softcap is not None:
                    score.div_(softcap).tanh_().mul_(softcap)
                if keys.alibi is not None:
                    by_head = score.view(folds, -1, shape[1])
                    keys.alibi.lower(by_head, group, rows, slice(start, stop))
                hide_edges(score.view(folds, -1, shape[1]), keys, first, start, stop)
                score.sub_(lse[item, group, rows].reshape(-1, 1)).exp_()
                mass[item, head, start:stop] += score.sum(0)
    return mass
