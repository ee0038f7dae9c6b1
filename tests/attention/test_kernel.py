"""The kernel against one dense softmax."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_attention import dense, random_range
from torch import Tensor

from lmi_cli.attention import kernel
from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.kernel import attend, merge
from lmi_cli.attention.ranges import KeyRange


def random_ranges(seed: int) -> tuple[list[KeyRange], int]:
    random = np.random.default_rng(seed)
    key_heads, folds = random.integers(1, 4, 2)
    rows = int(random.choice([1, 2, 9, 130]))
    query = (int(random.integers(1, 4)), int(key_heads * folds), int(key_heads), rows, 6)
    start = int(random.integers(0, 60))
    ranges = []
    for _ in range(random.integers(1, 4)):
        nearest = int(random.integers(0, 20))
        ranges.append(
            random_range(
                random,
                query,
                int(random.choice([0, 1, 5, 40, 150])),
                key_start=int(random.integers(0, 40)),
                nearest=nearest,
                farthest=None if random.random() < 0.3 else nearest + int(random.integers(0, 50)),
            )
        )
    return ranges, start


@pytest.mark.parametrize("tile", [3, 128])
@pytest.mark.parametrize("scores_at_once", [1, 1 << 20])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_random_ranges(
    softcap: float | None, scores_at_once: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_TILE_ROWS", tile)
    monkeypatch.setitem(kernel._SCORES_AT_ONCE, "cpu", scores_at_once)
    blind = 0
    for seed in range(60):
        ranges, start = random_ranges(seed)
        output, lse = attend(ranges, query_start=start, softcap=softcap, with_lse=True)
        expected, expected_lse = dense(ranges, start, softcap)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-12)
        blind += int((expected_lse == -math.inf).sum())
        without, none = attend(ranges, query_start=start, softcap=softcap)
        assert none is None
        assert torch.equal(without, output)
    assert blind, "no row without a key was ever tried"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order", [1, -1])
def test_ranges_merge_to_their_union(seed: int, order: int) -> None:
    ranges, start = random_ranges(seed)
    parts = [attend([keys], query_start=start, with_lse=True) for keys in ranges[::order]]
    for got, expected in zip(merge(parts), dense(ranges, start), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_range_cut_in_two_is_the_range() -> None:
    keys = random_range(np.random.default_rng(0), (2, 4, 2, 30, 8), 50, farthest=33)
    first = KeyRange(keys.query, keys.key[:, :, :20], keys.value[:, :, :20], 0, 0, 33)
    second = KeyRange(keys.query, keys.key[:, :, 20:], keys.value[:, :, 20:], 20, 0, 33)
    for cut in ([first, second], [second, first]):
        output, _ = attend(cut, query_start=20)
        torch.testing.assert_close(output, dense([keys], 20)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("keys", [0, 5])
def test_rows_that_see_nothing(keys: int) -> None:
    """No key at all, and keys that all lie ahead."""
    ahead = random_range(np.random.default_rng(0), (1, 2, 1, 4, 8), keys, key_start=100)
    output, lse = attend([ahead], query_start=0, with_lse=True)
    assert not output.any()
    assert (lse == -math.inf).all()


def test_some_rows_of_a_tile_see_nothing() -> None:
    keys = random_range(np.random.default_rng(0), (1, 2, 1, 8, 8), 5, key_start=3)
    output, lse = attend([keys], query_start=0, with_lse=True)
    assert not output[:, :, :3].any() and output[:, :, 3:].all()
    assert (lse[:, :, :3] == -math.inf).all() and lse[:, :, 3:].isfinite().all()


def test_equal_scores_give_the_mean() -> None:
    keys = random_range(np.random.default_rng(0), (1, 1, 1, 6, 4), 6)
    flat = KeyRange(keys.query, torch.ones_like(keys.key), keys.value, 0)
    output, _ = attend([flat], query_start=0)
    means = keys.value.cumsum(2) / torch.arange(1, 7)[:, None]
    torch.testing.assert_close(output, means, rtol=0, atol=1e-14)


def test_a_single_key_is_copied() -> None:
    keys = random_range(np.random.default_rng(0), (2, 2, 1, 5, 4), 5, farthest=1)
    output, _ = attend([keys], query_start=0)
    assert torch.equal(output, keys.value.expand(2, 2, 5, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    """At most twice the error of the dense form in the same dtype, and one rounding."""
    for seed in range(10):
        wide, start = random_ranges(seed)
        narrow = [
            KeyRange(
                *(tensor.to(dtype) for tensor in (keys.query, keys.key, keys.value)),
                keys.key_start,
                keys.nearest,
                keys.farthest,
            )
            for keys in wide
        ]
        widened = [
            KeyRange(
                *(tensor.double() for tensor in (keys.query, keys.key, keys.value)),
                keys.key_start,
                keys.nearest,
                keys.farthest,
            )
            for keys in narrow
        ]
        exact = dense(widened, start)
        plain = dense(narrow, start)
        ours = attend(narrow, query_start=start, with_lse=True)
        assert ours[0].dtype == dtype and ours[1].dtype == torch.float32
        for got, same_dtype, true in zip(ours, plain, exact, strict=True):
            seen = true.isfinite()
            assert torch.equal(got.isfinite(), seen)
            error = _largest((got.double() - true)[seen])
            rounding = torch.finfo(dtype).eps * _largest(true[seen])
            assert error <= 2 * _largest((same_dtype.double() - true)[seen]) + rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parts_in_low_precision_are_merged_in_float32(dtype: torch.dtype) -> None:
    """The result is off by one rounding of the output, also where scores are large."""
    outputs = [torch.randn(1, 2, 5, 8).to(dtype) for _ in range(3)]
    lses = [1e4 + torch.randn(1, 2, 5) for _ in range(3)]
    shares = torch.stack(lses).double().softmax(0)[..., None]
    expected = (torch.stack(outputs).double() * shares).sum(0)
    found, lse = merge(list(zip(outputs, lses, strict=True)))
    assert (found.dtype, lse.dtype) == (dtype, torch.float32)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=rounding)


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores(dtype: torch.dtype, sign: int) -> None:
    query = torch.full((1, 1, 4, 4), 50.0 * sign, dtype=dtype)
    key = torch.full((1, 1, 4, 4), 50.0, dtype=dtype)  # scores of 1e4
    value = torch.arange(4, dtype=dtype)[None, None, :, None]
    output, lse = attend([KeyRange(query, key, value, 0)], query_start=0, with_lse=True)
    assert output.flatten().tolist() == [0.0, 0.5, 1.0, 1.5]
    expected = sign * 1e4 + torch.arange(1, 5).log()
    torch.testing.assert_close(lse.flatten().double(), expected.double(), rtol=4e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 140])
def test_scores_that_fall_with_distance(dtype: torch.dtype, rows: int) -> None:
    """Far away so much is taken off that a bfloat16 could not tell one key from the next."""
    random = np.random.default_rng(rows)
    keys = random_range(random, (2, 6, 3, rows, 8), 900, farthest=800)
    query, key, value = (x.to(dtype) for x in (keys.query / 8, keys.key, keys.value))
    slopes = 2.0 ** (-8 * torch.arange(1, 7, dtype=torch.float64) / 6)
    query_at, key_at = torch.arange(rows).double(), torch.arange(900).double() - 900 - 2**10
    alibi = Alibi(slopes, query_at, key_at)
    wide = torch.promote_types(dtype, torch.float32)
    given = replace(
        keys, query=query, key=key, value=value, alibi=Alibi(*(x.to(wide) for x in alibi))
    )
    output, lse = attend([given], query_start=900 - rows, with_lse=True)
    exact = KeyRange(query.double(), key.double(), value.double(), 0, 0, 800, alibi)
    expected, expected_lse = dense([exact], 900 - rows)
    assert lse is not None
    allowed = 1e-12 if dtype == torch.float64 else 2**-6 * float(value.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=allowed)
    largest = 1e-12 if dtype == torch.float64 else 2**-5
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-12, atol=largest)
