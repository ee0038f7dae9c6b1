"""Where a question looks: the attention of a few heads over every token of a document.

A few heads of a trained model do the looking-up (Wu et al. 2024, "Retrieval Head Mechanistically
Explains Long-Context Factuality", arXiv 2404.15574). Their keys alone are a light index of a
document; which heads they are is found by :mod:`lmi_cli.tasks.calibrate`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import phase_dtype
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads, key_heads_of

SMOOTHING = 0.5
"""Share of a uniform look that every passage is given; keeps the logarithm of nothing away."""

NEIGHBOUR = 0.25
"""What the score of each neighbour adds to that of a passage: a place is seldom seen alone."""


def key_index(
    heads: Iterable[AttentionHead],
    query_heads: int,
    key_heads: int,
    *,
    first: int = 0,
    pool: BlockPool | None = None,
) -> TokenStore:
    """An empty store for the keys that ``heads`` look at.

    Args:
        heads: Of the model.
        query_heads: In a layer.
        key_heads: In a layer.
        first: True position of the first token that is kept.
        pool: Where memory comes from.
    """
    kept = key_heads_of(heads, query_heads, key_heads)
    return TokenStore(kept, with_values=False, first=first, pool=pool)


def look(
    engine: Engine,
    state: StreamState,
    ids: Ids,
    index: TokenStore,
    retrieval: RetrievalHeads,
    borders: NDArray[np.int64],
) -> Tensor:
    """How much each head looks at each passage while ``ids`` are read.

    Args:
        engine: Runs the model.
        state: Is consumed.
        ids: The question with what stands around it.
        index: Keys of the document.
        retrieval: The heads, and the distance of every key.
        borders: Positions in the stream at which passages begin, and that of its end. Tokens before
            the first one of the index count for no passage.

    Returns:
        float32 ``[heads, passages]``: the logarithm of the share of attention that a passage gets,
        smoothed, averaged over the tokens of ``ids``.
    """
    borders = np.maximum(borders - index.first, 0)
    observed: dict[int, list[QKV]] = {}

    def observe(layer: int, qkv: QKV) -> None:
        if layer in index.heads:
            observed.setdefault(layer, []).append(qkv)

    for _ in engine.read(state, [ids], observe):
        pass
    result = torch.empty(len(retrieval.heads), len(borders) - 1)
    for layer, chunks in observed.items():
        query = torch.cat([qkv.query for qkv in chunks], 2)[0]
        rotary = engine.layers[layer].rotary
        scale, softcap = chunks[0].scale, chunks[0].softcap
        wide = phase_dtype(query.dtype)
        query = query.to(wide)
        if rotary is not None:
            position = torch.tensor([retrieval.distance])
            query = rotary.rotate(query, rotary.phases(position, wide, query.device))
        folds = query.shape[0] // chunks[0].key.shape[1]
        for slot, key_head in enumerate(index.heads[layer] or ()):
            rows = [
                row
                for row, (at, head) in enumerate(retrieval.heads)
                if at == layer and head // folds == key_head
            ]
            if rows:
                mine = query[[retrieval.heads[row].head for row in rows]] * scale
                keys = (block[0, slot] for block in index.keys(layer))
                shares = log_shares(mine.flatten(0, 1), keys, borders, softcap)
                result[rows] = shares.view(len(rows), -1, len(borders) - 1).mean(1).cpu().float()
    return result


def log_shares(
    query: Tensor,
    keys: Iterable[Tensor],
    borders: NDArray[np.int64],
    softcap: float | None = None,
) -> Tensor:
    """Smoothed logarithm of the attention that each query gives to each passage.

    Args:
        query: ``[Q, D]``, rotated and scaled.
        keys: Blocks ``[n, D]`` of the document, un-rotated, in order.
        borders: Token offsets at which passages begin, and the number of tokens.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.

    Returns:
        ``[Q, passages]`` in the dtype of the queries.
    """
    passages = len(borders) - 1
    lengths = torch.from_numpy(np.diff(borders)).to(query.device)
    label = torch.arange(passages, device=query.device).repeat_interleave(lengths)
    mass = query.new_full((len(query), passages), -torch.inf)
    at = 0
    for key in keys:
        scores = query @ key.to(query.device, query.dtype).T
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        here = label[at : at + len(key)]
        at += len(key)
        part = slice(int(here[0]), int(here[-1]) + 1)
        peak = scores.amax(-1, keepdim=True)
        sums = mass.new_zeros(len(query), part.stop - part.start)
        sums.index_add_(1, here - part.start, (scores - peak).exp_())
        mass[:, part] = torch.logaddexp(mass[:, part], sums.log_() + peak)
    mass -= mass.logsumexp(-1, keepdim=True)
    uniform = (SMOOTHING * lengths.clamp_min(1).to(query.dtype) / lengths.sum()).log()
    return torch.logaddexp(mass, uniform)


def contrast(shares: Tensor, empty: Sequence[Tensor]) -> Tensor:
    """How much more a question looks at each passage than questions that ask for nothing.

    Args:
        shares: ``[heads, passages]``; see :func:`look`.
        empty: The same for empty questions.

    Returns:
        ``[passages]``: the mean over heads of the difference, in nats, with a part of that of the
        passages on either side.
    """
    alone = (shares - torch.stack(list(empty)).mean(0)).mean(0)
    scores = alone.clone()
    scores[1:] += NEIGHBOUR * alone[:-1]
    scores[:-1] += NEIGHBOUR * alone[1:]
    return scores
