"""Searches of a store against loops over single queries that follow their definitions alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmi_cli.attention import search
from lmi_cli.attention.clusters import clustered
from lmi_cli.attention.int8 import dequantize, quantize
from lmi_cli.attention.search import attend_searched
from lmi_cli.attention.segment import SEARCHES, Search
from lmi_cli.attention.stored import KeyBlock
from lmi_cli.attention.topk import attend_topk

FIRST_KEY = 3


def inputs(
    keys: int, rows: int = 5, *, smooth: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, rows, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, keys, 8, generator=generator, dtype=torch.float64)
    if smooth:  # neighbours are alike
        key = 0.2 * key.cumsum(-2)
    return query, key, value


def blocks_of(key: Tensor, value: Tensor, size: int, *, clusters: bool = True) -> list[KeyBlock]:
    blocks = []
    for at in range(0, key.shape[2], size):
        part = key[:, :, at : at + size]
        made = clustered(part) if clusters else None
        blocks.append(KeyBlock(part, value[:, :, at : at + size], FIRST_KEY + at, None, None, made))
    return blocks


def clusters_by_hand(key: Tensor) -> list[list[int]]:
    """K-means of directions, written out for one head, ``[n, D]``."""
    directions = [x / max(float(x.norm()), 1e-12) for x in key]
    count = math.ceil(len(key) / 20)
    centres = [directions[number * len(key) // count] for number in range(count)]
    for turn in range(3):
        members: list[list[int]] = [[] for _ in range(count)]
        for j, x in enumerate(directions):
            cosines = [float(x @ centre) for centre in centres]
            members[cosines.index(max(cosines))].append(j)
        if turn < 2:
            for number, js in enumerate(members):
                if js:
                    mean = torch.stack([directions[j] for j in js]).mean(0)
                    centres[number] = mean / mean.norm()
    return members


def clusters_found(query: Tensor, key: Tensor, seen: int, budget: int, size: int) -> set[int]:
    """The keys of the best clusters of all blocks, until there are enough."""
    scored = []
    for at in range(0, len(key), size):
        for js in clusters_by_hand(key[at : at + size]):
            if js:
                mean = key[at : at + size][js].mean(0)
                scored.append((-float(query @ mean), len(scored), [at + j for j in js]))
    found: set[int] = set()
    for _, _, js in sorted(scored):
        if len(found) < budget:
            found |= {j for j in js if j < seen}
    return found


def representative(score: Callable[[int], float], begin: int, end: int) -> float:
    while end - begin > 1:
        middle = begin + (end - begin) // 2
        if score(middle) > score(begin):
            begin = middle
        else:
            end = middle
    return score(begin)


def pruned_found(query: Tensor, key: Tensor, seen: int, budget: int, _: int) -> set[int]:
    """A tree whose levels are chunks of 64, 16 and 4 keys."""

    def score(j: int) -> float:
        return float(query @ key[j])

    begins = list(range(0, seen, 64))
    for size, times, below in ((64, 16, 16), (16, 4, 4), (4, 1, 1)):
        scored = [(-representative(score, b, min(b + size, seen)), b) for b in begins]
        kept = sorted(b for _, b in sorted(scored)[: math.ceil(budget * times / size)])
        begins = [c for b in kept for c in range(b, min(b + size, seen), below)]
    return set(begins)


def by_hand(
    kind: str, percent: int, query: Tensor, key: Tensor, value: Tensor,
    k: int, size: int, first: int, nearest: int, softcap: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    find = {"clusters": clusters_found, "pruned": pruned_found}[kind]
    output = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
    lse = torch.full(query.shape[:-1], -math.inf, dtype=query.dtype)
    folds = query.shape[1] // key.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for r in range(query.shape[2]):
                q, keys, values = query[b, h, r], key[b, h // folds], value[b, h // folds]
                seen = min(len(keys), max(0, first + r - nearest - FIRST_KEY + 1))
                budget = max(k, math.ceil(seen * percent / 100))
                found = find(q, keys, seen, budget, size) if seen else set()
                best = [j for _, j in sorted((-float(q @ keys[j]), j) for j in found)[:k]]
                if best:
                    scores = keys[best] @ q
                    if softcap is not None:
                        scores = softcap * (scores / softcap).tanh()
                    lse[b, h, r] = scores.logsumexp(0)
                    output[b, h, r] = scores.softmax(0) @ values[best]
    return output, lse


KINDS = pytest.mark.parametrize("kind", ["pruned", "clusters"])


@KINDS
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("k", "percent"), [(1, 1), (3, 5), (7, 20), (40, 5)])
@pytest.mark.parametrize(("size", "nearest"), [(64, 150), (100, 0), (100, 298), (300, 150)])
def test_equals_the_definition(
    kind: str, k: int, percent: int, size: int, nearest: int, smooth: bool
) -> None:
    query, key, value = (x[:1] for x in inputs(290, rows=2, smooth=smooth))
    found = attend_searched(
        query, blocks_of(key, value, size), k, Search(kind, percent), query_start=300,
        nearest=nearest, softcap=2.0,
    )  # fmt: skip
    expected = by_hand(kind, percent, query, key, value, k, size, 300, nearest, 2.0)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize(("k", "percent"), [(3, 100), (290, 1), (500, 1)])
@pytest.mark.parametrize("nearest", [0, 150, 400])
def test_where_nothing_is_left_out_it_is_the_exact_search(
    kind: str, k: int, percent: int, nearest: int
) -> None:
    query, key, value = inputs(290)
    where = {"query_start": 300, "nearest": nearest}
    blocks = blocks_of(key, value, 64)
    found = attend_searched(query, blocks, k, Search(kind, percent), **where)
    for got, want in zip(found, attend_topk(query, blocks, k, **where), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@KINDS
def test_it_does_leave_out_keys(kind: str) -> None:
    query, key, value = inputs(290)
    blocks = blocks_of(key, value, 64)
    found, _ = attend_searched(query, blocks, 3, Search(kind, 5), query_start=300)
    exact, _ = attend_topk(query, blocks, 3, query_start=300)
    assert float((found - exact).abs().max()) > 0.1


@KINDS
@pytest.mark.parametrize("numbers", [1, 3000])
def test_many_queries_are_searched_for_in_parts(
    kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = inputs(290, rows=7)
    blocks, how = blocks_of(key, value, 64), Search(kind, 10)
    whole = attend_searched(query, blocks, 4, how, query_start=200)
    monkeypatch.setattr(search, "_NUMBERS_AT_ONCE", numbers)
    parts = attend_searched(query, blocks, 4, how, query_start=200)
    for got, want in zip(parts, whole, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@KINDS
def test_no_keys(kind: str) -> None:
    query, _, _ = inputs(1)
    output, lse = attend_searched(query, [], 3, Search(kind, 10), query_start=9)
    assert not output.any() and bool((lse == -math.inf).all())


@KINDS
def test_eight_bits_are_searched_as_what_they_stand_for(kind: str) -> None:
    query, key, value = (x.float() for x in inputs(290))
    plain, coded = [], []
    for block in blocks_of(key, value, 100):
        (keys, key_scale), (values, value_scale) = quantize(block.key), quantize(block.value)
        whole = dequantize(keys, key_scale)
        made = clustered(whole)
        plain.append(KeyBlock(whole, dequantize(values, value_scale), block.start, clusters=made))
        coded.append(KeyBlock(keys, values, block.start, key_scale, value_scale, made))
    for how in (Search(kind, 10), Search()):
        one, two = (attend_searched(query, x, 4, how, query_start=300) for x in (plain, coded))
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@KINDS
def test_keys_in_bfloat16_are_scored_in_float32(kind: str) -> None:
    query, key, value = (x.bfloat16() for x in inputs(290))
    blocks = blocks_of(key, value, 100)
    output, lse = attend_searched(query, blocks, 300, Search(kind, 10), query_start=300)
    assert (output.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    exact = [KeyBlock(block.key.double(), block.value.double(), block.start) for block in blocks]
    wanted, wanted_lse = attend_topk(query.double(), exact, 300, query_start=300)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.double(), wanted, rtol=0, atol=0.02)


def test_a_search_needs_the_clusters_that_it_looks_at() -> None:
    query, key, value = inputs(30)
    with pytest.raises(ValueError, match="not in clusters"):
        attend_searched(
            query, blocks_of(key, value, 30, clusters=False), 3, Search("clusters", 10),
            query_start=40,
        )  # fmt: skip


@pytest.mark.parametrize("keys", [1, 19, 20, 21, 400])
def test_clusters_are_those_of_k_means(keys: int) -> None:
    _, key, _ = inputs(keys, smooth=True)
    made = clustered(key)
    assert made.cluster.dtype == torch.int16
    for b in range(2):
        for h in range(2):
            for number, js in enumerate(clusters_by_hand(key[b, h])):
                assert (made.cluster[b, h, :, 0] == number).nonzero()[:, 0].tolist() == js
                assert int(made.size[b, h, number]) == len(js)
                mean = key[b, h, js].mean(0) if js else torch.zeros(8, dtype=key.dtype)
                torch.testing.assert_close(made.centroid[b, h, number], mean)


def test_equal_keys_leave_clusters_empty_and_zero_keys_do_no_harm() -> None:
    key = torch.ones(1, 1, 60, 4)
    key[0, 0, 30:] = 0.0
    made = clustered(key)
    assert int(made.size.sum()) == 60
    assert torch.isfinite(made.centroid).all() and int((made.size == 0).sum()) > 0
    value = torch.arange(60.0)[None, None, :, None].expand(1, 1, 60, 4)
    block = KeyBlock(key, value, 0, None, None, made)
    output, _ = attend_searched(
        torch.ones(1, 1, 1, 4), [block], 2, Search("clusters", 5), query_start=99
    )
    assert float(output[0, 0, 0, 0]) == pytest.approx(0.5)  # the first two of the equal best
