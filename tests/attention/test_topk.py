"""Top-k attention against a loop over single queries, in float64."""

import math

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.topk import KeyBlock, attend_topk


def blocks_of(key: Tensor, value: Tensor, size: int, start: int) -> list[KeyBlock]:
    return [
        KeyBlock(key[:, :, at : at + size], value[:, :, at : at + size], start + at)
        for at in range(0, key.shape[2], size)
    ]


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, k: int, first_key: int, first: int, nearest: int
) -> tuple[Tensor, Tensor]:
    output = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
    lse = torch.full(query.shape[:-1], -math.inf, dtype=query.dtype)
    folds = query.shape[1] // key.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for r in range(query.shape[2]):
                scored = [
                    (-float(query[b, h, r] @ key[b, h // folds, j]), j)
                    for j in range(key.shape[2])
                    if first + r - (first_key + j) >= nearest
                ]
                best = [j for _, j in sorted(scored)[:k]]
                if best:
                    scores = key[b, h // folds, best] @ query[b, h, r]
                    lse[b, h, r] = scores.logsumexp(0)
                    output[b, h, r] = scores.softmax(0) @ value[b, h // folds, best]
    return output, lse


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("size", [1, 4, 7, 40])
@pytest.mark.parametrize("nearest", [0, 5, 14, 60])
def test_equals_the_definition(k: int, size: int, nearest: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, 23, 8, dtype=torch.float64)
    found = attend_topk(query, blocks_of(key, value, size, 3), k, query_start=20, nearest=nearest)
    expected = by_hand(query, key, value, k, 3, 20, nearest)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 5, 12])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_are_taken_from_the_lowest_position(size: int, k: int) -> None:
    key = torch.ones(1, 1, 12, 2)
    key[:, :, 7] = 2.0
    value = torch.arange(12.0)[None, None, :, None].expand(1, 1, 12, 2)
    query = torch.ones(1, 1, 1, 2)
    output, _ = attend_topk(query, blocks_of(key, value, size, 0), k, query_start=50)
    best = [7, 0, 1, 2, 3][:k]
    weights = torch.tensor([4.0 if j == 7 else 2.0 for j in best]).softmax(0)
    assert output[0, 0, 0, 0] == pytest.approx(float(weights @ torch.tensor(best).float()))


def test_softcap_and_no_keys() -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 1, 1, 6, 4, dtype=torch.float64)
    output, lse = attend_topk(
        query, [KeyBlock(key, value, 0)], 6, query_start=9, nearest=1, softcap=0.5
    )
    scores = 0.5 * ((query @ key.mT) / 0.5).tanh()
    torch.testing.assert_close(output, scores.softmax(-1) @ value)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    output, lse = attend_topk(query, [], 6, query_start=9)
    assert not output.any()
    assert bool((lse == -math.inf).all())


def test_scores_in_bfloat16_are_merged_in_float32() -> None:
    torch.manual_seed(2)
    query, key, value = torch.randn(3, 1, 1, 6, 4).bfloat16()
    output, lse = attend_topk(query, [KeyBlock(key, value, 0)], 6, query_start=9)
    assert (output.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    exact, _ = attend_topk(
        query.double(), [KeyBlock(key.double(), value.double(), 0)], 6, query_start=9
    )
    # Scores of a few units, rounded to 8 bits, move a weight by some percent.
    assert float((output.double() - exact).abs().max()) < 0.05
