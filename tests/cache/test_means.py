"""Mean hidden states against means taken directly."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.cache import MEAN_TOKENS
from lmi_cli.cache.means import StateMeans

HIDDEN = 5


def states(count: int) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(count))


def filled(hidden: torch.Tensor, chunks: list[int], first: int = 0) -> StateMeans:
    means, at = StateMeans(first=first), 0
    for chunk in [*chunks, len(hidden)]:
        if at < len(hidden):
            means.append(hidden[at : at + chunk], at)
        at += chunk
    return means


@given(
    count=st.integers(1, 90),
    first=st.integers(0, 40),
    chunks=st.lists(st.integers(1, 40), max_size=6),
)
def test_passages_of_whole_blocks_have_their_exact_means(
    count: int, first: int, chunks: list[int]
) -> None:
    hidden = states(count)
    means = filled(hidden, chunks, first)
    kept = max(0, count - first)
    assert means.tokens == kept
    if not kept:
        with pytest.raises(RuntimeError):
            means.of_passages(np.array([0, 1]))
        return
    borders = np.array([0, *range(first + MEAN_TOKENS, count, 2 * MEAN_TOKENS), count])
    found = means.of_passages(borders)
    for row, (low, high) in enumerate(pairwise(borders)):
        inside = hidden[max(low, first) : high]
        want = inside.mean(0) if len(inside) else torch.zeros(HIDDEN)
        torch.testing.assert_close(found[row], want, atol=1e-5, rtol=1e-5)


def test_a_block_that_a_border_divides_counts_on_both_sides() -> None:
    hidden = states(3 * MEAN_TOKENS)
    blocks = hidden.view(3, MEAN_TOKENS, HIDDEN).mean(1)
    quarter = MEAN_TOKENS // 4
    found = filled(hidden, []).of_passages(np.array([quarter, MEAN_TOKENS + quarter, 40]))
    torch.testing.assert_close(found[0], 0.75 * blocks[0] + 0.25 * blocks[1])
    torch.testing.assert_close(found[1], (12 * blocks[1] + 8 * blocks[2]) / 20)


def test_passages_may_be_empty_or_lie_in_front_of_the_first_token() -> None:
    found = filled(states(30), [], first=10).of_passages(np.array([0, 5, 5, 20, 20, 30]))
    assert (found[:2] == 0).all() and (found[3] == 0).all()
    assert (found[2] != 0).all() and (found[4] != 0).all()


@pytest.mark.parametrize("count", [0, 7, MEAN_TOKENS, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_saved_goes_on_as_if_it_had_not_been(count: int, dtype: torch.dtype) -> None:
    hidden = states(80).to(dtype)
    direct = filled(hidden, [9])
    half = filled(hidden[:count], [9])
    restored, fork = StateMeans(), half.fork()
    restored.restore(half.save(), count)
    for means in (restored, fork):
        means.append(hidden[count:], count)
    half.append(states(3).to(dtype), count)  # a fork is independent
    borders = np.array([0, 11, 40, 80])
    for means in (restored, fork):
        torch.testing.assert_close(means.of_passages(borders), direct.of_passages(borders))
        assert means.nbytes == direct.nbytes == 5 * HIDDEN * dtype.itemsize


def test_states_of_another_number_of_tokens_are_refused() -> None:
    saved = filled(states(50), []).save()
    for tokens, tensors in ((34, saved), (0, saved), (50, {"rows": saved["rows"]}), (50, {})):
        with pytest.raises((KeyError, ValueError)):
            StateMeans().restore(tensors, tokens)
