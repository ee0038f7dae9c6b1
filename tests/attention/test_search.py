"""Searches of a store against loops over single queries that follow their definitions alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.clusters import clustered
from lmi_cli.attention.search import attend_searched
from lmi_cli.attention.segment import Search
from lmi_cli.attention.stored import KeyBlock

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


@pytest.mark.parametrize("kind", ["pruned", "clusters"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("k", "percent"), [(1, 1), (3, 5), (7, 20), (40, 5), (3, 100)])
@pytest.mark.parametrize("size", [64, 100, 300])
@pytest.mark.parametrize("nearest", [0, 150, 298])
def test_equals_the_definition(
    kind: str, k: int, percent: int, size: int, nearest: int, smooth: bool
) -> None:
    query, key, value = inputs(290, rows=4, smooth=smooth)
    found = attend_searched(
        query, blocks_of(key, value, size), k, Search(kind, percent), query_start=300,
        nearest=nearest, softcap=2.0,
    )  # fmt: skip
    expected = by_hand(kind, percent, query, key, value, k, size, 300, nearest, 2.0)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
