"""Where heads look: against a dense softmax over all keys, written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model

from lmi_cli.attention.ranges import QKV
from lmi_cli.engine import retrieval
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.engine.retrieval import (
    attention_shares,
    contrast,
    key_index,
    log_shares,
    read_question,
)
from lmi_cli.methods import LMInfinite
from lmi_cli.models.causal_lm import CausalLM

BORDERS = np.array([0, 3, 4, 11, 20])


def dense_shares(scores: torch.Tensor, borders: np.ndarray) -> torch.Tensor:
    weights = scores.softmax(-1)
    sizes = np.diff(borders)
    shares = [
        weights[:, a:b].sum(-1) + 0.5 * max(b - a, 1) / sizes.sum()
        for a, b in pairwise(borders.tolist())
    ]
    return torch.stack(shares, -1).log()


@pytest.mark.parametrize("block", [1, 3, 7, 20])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_shares_do_not_depend_on_the_blocks(block: int, softcap: float | None) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(5, 8).double(), torch.randn(20, 8).double()
    scores = query @ key.T
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    found = log_shares(query, key.split(block), BORDERS, softcap)
    torch.testing.assert_close(found, dense_shares(scores, BORDERS), rtol=0, atol=1e-12)


def test_scores_that_are_far_apart_lose_nothing() -> None:
    query = torch.tensor([[1.0]])
    key = torch.tensor([[-500.0], [500.0], [499.0], [-500.0]])
    found = log_shares(query, key.split(1), np.array([0, 1, 3, 4]))
    assert bool(found.isfinite().all())
    assert float(found[0, 1]) == pytest.approx(np.log(1 + 0.5 * 2 / 4))


def test_a_passage_without_tokens_is_no_place_to_look() -> None:
    found = log_shares(torch.zeros(1, 2), [torch.zeros(4, 2)], np.array([0, 0, 4]))
    assert bool(found.isfinite().all())
    assert found[0, 0] < found[0, 1]


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gemma2"])
@pytest.mark.parametrize("chunk", [4, 64])
def test_heads_look_where_their_scores_say(name: str, chunk: int) -> None:
    """The queries of a pass, turned by hand, against the keys of another."""
    distance, first, count = 6, 2, 30
    model, ids = tiny_model(name), random_ids(count + 7)
    heads = (AttentionHead(1, 3), AttentionHead(0, 1), AttentionHead(1, 0))
    borders = np.array([0, 9, 16, count])
    with CausalLM(model) as lm, precisely(model):
        engine = Engine(lm, LMInfinite(12, 2, 12), chunk)
        index = key_index(heads, *lm.attention_heads, first=first)
        every = key_index(
            [AttentionHead(layer, head) for layer in (0, 1) for head in range(4)],
            *lm.attention_heads,
        )
        state = engine.start()
        state.recording = (index, every)
        list(engine.read(state, [ids[:count]]))
        assert index.nbytes < every.nbytes or name == "llama-mqa"
        retrieval_heads = RetrievalHeads(heads, distance)
        queries, _ = read_question(engine, state.fork(), ids[count:], index, retrieval_heads)
        found = attention_shares(queries, index, borders)
        seen: dict[int, list[QKV]] = {0: [], 1: []}
        fork = state.fork()
        for _ in engine.read(fork, [ids[count:]], lambda at, it: seen[at].append(it)):
            pass
        query_heads, key_heads = lm.attention_heads
        for row, (layer, head) in enumerate(heads):
            query = torch.cat([asked.query for asked in seen[layer]], 2)[0, head]
            rotary = engine.layers[layer].rotary
            assert rotary is not None
            phases = rotary.phases(torch.tensor([distance]), torch.float64, query.device)
            slot = (every.heads[layer] or ()).index(head // (query_heads // key_heads))
            key = torch.cat(list(every.keys(layer)), 2)[0, slot, first:]
            scores = rotary.rotate(query, phases) @ key.T * seen[layer][0].scale
            if (softcap := seen[layer][0].softcap) is not None:
                scores = softcap * (scores / softcap).tanh()
            want = dense_shares(scores, np.maximum(borders - first, 0)).mean(0)
            torch.testing.assert_close(found[row].double(), want, rtol=0, atol=1e-5)


def test_contrast_adds_a_part_of_the_neighbours() -> None:
    looked = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    empty = [torch.zeros(2, 3), torch.full((2, 3), 2.0)]
    alone = torch.tensor([1.0, -1.0, 0.0])
    part = retrieval.NEIGHBOUR
    want = alone + part * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(contrast(looked, empty), want)
