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
    batch, _, queries, _ = keys.query.shape
    key_heads, count = keys.key.shape[1], keys.key.shape[2]
    mass = lse.new_zeros(batch, key_heads, count)
    for begin in range(0, queries, _TILE_ROWS):
        rows = slice(begin, min(begin + _TILE_ROWS, queries))
        first, last = query_start + rows.start, query_start + rows.stop - 1
        start, stop = keys.columns(first, last)
        if start == stop:
            continue
        tile = keys.query[:, :, rows].unflatten(1, (key_heads, -1))
        scores = tile @ keys.key[:, :, None, start:stop].mT
        scores = scores.to(lse.dtype)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        hide_edges(scores, keys, first, start, stop)
        weights = scores.sub_(lse[:, :, rows].unflatten(1, (key_heads, -1))[..., None]).exp_()
        mass[:, :, start:stop] += weights.sum((2, 3))
    return mass
