"""The attention of a question to every passage of a document, in the model's retrieval heads.

A few heads of a trained model retrieve facts from its context (Wu et al. 2024, "Retrieval Head
Mechanistically Explains Long-Context Factuality", arXiv 2404.15574). Their keys alone make a light
index of a document; :mod:`lmi_cli.tasks.calibrate` finds out which heads they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
"""Share of uniform attention that is added to every passage, so that no logarithm is of zero."""

NEIGHBOUR = 0.25
"""Part of the score of each neighbour that is added to the score of a passage."""


def key_index(
    heads: Iterable[AttentionHead],
    query_heads: int,
    key_heads: int,
    *,
    first: int = 0,
    pool: BlockPool | None = None,
) -> TokenStore:
    """An empty store for the keys that ``heads`` attend to.

    Args:
        heads: Retrieval heads of a model.
        query_heads: Query heads of each layer.
        key_heads: Key heads of each layer.
        first: True position of the first token that is kept.
        pool: Where the memory comes from.
    """
    kept = key_heads_of(heads, query_heads, key_heads)
    return TokenStore(kept, with_values=False, first=first, pool=pool)


@dataclass(frozen=True, slots=True)
class HeadQueries:
    """The queries of a question in the retrieval heads that share a key head.

    Attributes:
        layer: Index of the layer.
        slot: Place of the key head among those of the layer in the index.
        rows: Numbers of the heads among the retrieval heads.
        query: ``[heads, tokens of the question, D]``, rotated to the distance of the heads, scaled.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.
    """

    layer: int
    slot: int
    rows: list[int]
    query: Tensor
    softcap: float | None


def read_question(
    engine: Engine,
    state: StreamState,
    ids: Ids,
    index: TokenStore | None,
    retrieval: RetrievalHeads | None,
) -> tuple[list[HeadQueries], Tensor]:
    """Read a question behind a document.

    Args:
        engine: Runs the model.
        state: Behind the document; it is consumed.
        ids: The question, with the template around it.
        index: Keys of the document; None without retrieval heads.
        retrieval: The heads, and the distance at which every key is scored.

    Returns:
        The queries of the retrieval heads, and the final hidden states ``[tokens, hidden]``.
    """
    observed: dict[int, list[QKV]] = {}

    def observe(layer: int, qkv: QKV) -> None:
        if index is not None and layer in index.heads:
            observed.setdefault(layer, []).append(qkv)

    hidden = torch.cat([event.hidden for event in engine.read(state, [ids], observe)])
    if index is None or retrieval is None:
        return [], hidden
    return _head_queries(engine, observed, index, retrieval), hidden


def _head_queries(
    engine: Engine,
    observed: Mapping[int, list[QKV]],
    index: TokenStore,
    retrieval: RetrievalHeads,
) -> list[HeadQueries]:
    """The queries of the retrieval heads, from what their layers were given chunk by chunk."""
    found = []
    for layer, chunks in observed.items():
        query = torch.cat([qkv.query for qkv in chunks], 2)[0]
        rotary = engine.layers[layer].rotary
        wide = phase_dtype(query.dtype)
        query, scale = query.to(wide), chunks[0].scale
        if rotary is not None:
            scale *= rotary.score_factor
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
                found.append(HeadQueries(layer, slot, rows, mine, chunks[0].softcap))
    return found


def attention_shares(
    queries: Sequence[HeadQueries], index: TokenStore, borders: NDArray[np.int64]
) -> Tensor:
    """The share of each head's attention that each passage receives while a question is read.

    Args:
        queries: Of the question; see :func:`read_question`.
        index: Keys of the document.
        borders: Positions in the stream at which passages begin, and that of its end. Tokens before
            the first one of the index count for no passage.

    Returns:
        float32 ``[heads, passages]``: the smoothed logarithm of the share, averaged over the tokens
        of the question.
    """
    borders = np.maximum(borders - index.first, 0)
    passages = len(borders) - 1
    result = torch.empty(sum(len(each.rows) for each in queries), passages)
    for each in queries:
        keys = (block[0, each.slot] for block in index.keys(each.layer))
        shares = log_shares(each.query.flatten(0, 1), keys, borders, each.softcap)
        result[each.rows] = shares.view(len(each.rows), -1, passages).mean(1).cpu().float()
    return result


def token_scores(
    queries: Sequence[HeadQueries], index: TokenStore, first: int, stop: int
) -> Tensor:
    """How much the heads look at single tokens while a question is read.

    Args:
        queries: Of the question; see :func:`read_question`.
        index: Keys of the document.
        first: Position in the stream of the first token.
        stop: Position behind the last.

    Returns:
        float32 ``[stop - first]``: the score of each token, before the softmax, averaged over heads
        and over the tokens of the question, in nats; 0 for tokens that are not in the index.
    """
    result = torch.zeros(stop - first)
    heads = sum(len(each.rows) for each in queries)
    for each in queries:
        at = index.first
        for block in index.keys(each.layer):
            low, high = max(first, at), min(stop, at + block.shape[2])
            if low < high:
                key = block[0, each.slot, low - at : high - at]
                scores = each.query @ key.to(each.query.device, each.query.dtype).T
                if each.softcap is not None:
                    scores = each.softcap * torch.tanh(scores / each.softcap)
                share = scores.mean(1).sum(0).cpu().float() / heads
                result[low - first : high - first] += share
            at += block.shape[2]
    return result


def log_shares(
    query: Tensor,
    keys: Iterable[Tensor],
    borders: NDArray[np.int64],
    softcap: float | None = None,
) -> Tensor:
    """Smoothed logarithm of the share of each query's attention that each passage receives.

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
    """How much more attention a question pays to each passage than questions without content.

    Args:
        shares: ``[heads, passages]``; see :func:`attention_shares`.
        empty: The same for questions without content.

    Returns:
        ``[passages]``: the mean over heads of the difference, in nats, with a part of that of the
        passages on either side.
    """
    alone = (shares - torch.stack(list(empty)).mean(0)).mean(0)
    scores = alone.clone()
    scores[1:] += NEIGHBOUR * alone[:-1]
    scores[:-1] += NEIGHBOUR * alone[1:]
    return scores
