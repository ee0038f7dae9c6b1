"""The kernel in C against one dense softmax in float64, within what bfloat16 can hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_attention import dense, random_range

from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.kernel import attend
from lmi_cli.attention.ranges import KeyRange
from lmi_cli.native import attention as native

pytestmark = pytest.mark.usefixtures("each_unit")


def low(keys: KeyRange) -> KeyRange:
    """The range in bfloat16."""
    query, key, value = (tensor.bfloat16() for tensor in (keys.query, keys.key, keys.value))
    return replace(keys, query=query, key=key, value=value)


def wide(keys: KeyRange) -> KeyRange:
    query, key, value = (tensor.double() for tensor in (keys.query, keys.key, keys.value))
    alibi = None if keys.alibi is None else Alibi(*(tensor.double() for tensor in keys.alibi))
    return replace(keys, query=query, key=key, value=value, alibi=alibi)


def check(ranges: list[KeyRange], query_start: int, softcap: float | None = None) -> None:
    """Compare with the definition on the same numbers.

    Scores and sums are float32. What may be rounded to bfloat16 (eight bits) is each weight, whose
    errors average out but add up at worst to 2**-8 of the largest value, and the output once more.
    """
    assert native.can(ranges)
    output, lse = attend(ranges, query_start=query_start, with_lse=True, softcap=softcap)
    assert lse is not None and lse.dtype == torch.float32
    expected, expected_lse = dense([wide(keys) for keys in ranges], query_start, softcap)
    largest = max(float(keys.value.abs().max()) for keys in ranges)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2**-7 * largest)
    seen = expected_lse.isfinite()
    assert torch.equal(lse.isfinite(), seen)
    torch.testing.assert_close(lse.double()[seen], expected_lse[seen], rtol=1e-5, atol=1e-4)
    assert not output[~seen].any()


@pytest.mark.parametrize("seed", range(60))
def test_random_ranges(seed: int) -> None:
    random = np.random.default_rng(seed)
    batch, key_heads = (int(x) for x in random.integers(1, [3, 4]))
    folds = int(random.integers(1, 7))  # more than share one reading of the keys, too
    rows = int(random.choice([1, 2, 5, 6, 23, 24, 25, 60, 130]))
    size = int(random.choice([64, 128, 192, 256]))
    query = (batch, key_heads * folds, key_heads, rows, size)
    start = int(random.integers(0, 60))
    ranges = []
    for _ in range(int(random.integers(1, 4))):
        keys = int(random.choice([1, 3, 15, 16, 17, 255, 256, 257, 700, 1300]))
        place = {
            "key_start": int(random.integers(max(0, start - keys), start + 10)),
            "nearest": int(random.integers(0, 20)),
            "farthest": None if random.random() < 0.3 else int(random.integers(1, keys + 40)),
        }
        given = random_range(random, query, keys, **place)
        value = given.value[..., :-1]
        scaled = given.query / math.sqrt(size)
        ranges.append(low(KeyRange(scaled, given.key, value, **place)))
    check(ranges, start)
    check(ranges, start, softcap=1.5)


def falling(keys: KeyRange, query_start: int, *, capped: bool = False) -> KeyRange:
    """The range with scores that fall with true distance, or with the same for all keys."""
    _, heads, rows, _ = keys.query.shape
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    query_at, key_at = torch.arange(rows), torch.arange(keys.key.shape[2])
    key_at = torch.full_like(key_at, -9) if capped else key_at + keys.key_start - query_start
    return replace(keys, alibi=Alibi(slopes, query_at.float(), key_at.float()))


@pytest.mark.parametrize("seed", range(8))
def test_scores_that_fall_with_distance(seed: int) -> None:
    """Heads are no power of two; each of a few queries gets what it gets alone, to the last bit."""
    random = np.random.default_rng(seed)
    rows = (1, 2, 7, 8, 9, 24, 33, 130)[seed]
    size, folds, start = (64, 128, 192, 256)[seed % 4], 1 + seed % 3, 600
    query = (1 + seed % 2, 5 * folds, 5, rows, size)
    ranges = []
    for keys, key_start, nearest, farthest in ((700, 0, 0, 300), (7, 0, 300, None)):
        given = random_range(random, query, keys, key_start=key_start)
        scaled, value = given.query / math.sqrt(size), given.value[..., :-1]
        one = KeyRange(scaled, given.key, value, key_start, nearest, farthest)
        ranges.append(falling(low(one), start, capped=keys == 7))
    check(ranges, start)
    output, lse = attend(ranges, query_start=start, with_lse=True)
    flat, _ = attend([replace(each, alibi=None) for each in ranges], query_start=start)
    assert lse is not None and (output - flat).abs().max() > 0.1
    for row in range(rows if rows <= native.MAX_FEW else 0):
        only = slice(row, row + 1)
        alone = [
            replace(
                each,
                query=each.query[:, :, only],
                alibi=each.alibi._replace(query_at=each.alibi.query_at[only]),
            )
            for each in ranges
            if each.alibi is not None
        ]
        one_output, one_lse = attend(alone, query_start=start + row, with_lse=True)
        assert one_lse is not None
        assert torch.equal(output[:, :, only], one_output)
        assert torch.equal(lse[:, :, only], one_lse)


@pytest.mark.parametrize("rows", [1, 30])
def test_far_away_keys_weigh_nothing(rows: int) -> None:
    """Where so much is taken off that a bfloat16 could not tell one key from the next."""
    query, key, value = (torch.randn(1, 2, count, 64).bfloat16() for count in (rows, 3000, 3000))
    start = 3000 - rows
    keys = falling(KeyRange(query / 8, key, value, 0), start)
    assert keys.alibi is not None
    check([keys], start)
    check([replace(keys, alibi=keys.alibi._replace(key_at=keys.alibi.key_at - 2**12))], start)


@pytest.mark.parametrize("rows", [1, 30])
def test_slices_of_a_larger_buffer(rows: int) -> None:
    key, value = (torch.randn(2, 3, 500, 64).bfloat16() for _ in range(2))
    query = torch.randn(2, rows, 6, 64).bfloat16().transpose(1, 2) / 8
    check([KeyRange(query, key[:, :, 70:370], value[:, :, 70:370], 40, 0, 200)], 330)


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("edge", range(0, 320, 32))
def test_a_band_begins_and_ends_anywhere(rows: int, edge: int) -> None:
    query, key, value = (torch.randn(1, 2, count, 64).bfloat16() for count in (rows, 400, 400))
    check([KeyRange(query / 8, key, value, 0, 0, 355 - edge)], 360)
    check([KeyRange(query / 8, key, value, 0, edge, None)], 360)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores_neither_overflow_nor_vanish(rows: int, sign: int) -> None:
    query, key = (torch.full((1, 1, count, 64), 40.0).bfloat16() for count in (rows, 300))
    value = torch.randn(1, 1, 300, 64).bfloat16()
    check([KeyRange(sign * query, key, value, 0, 0, None)], 260)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_peak_that_comes_late_shrinks_what_came_before(rows: int) -> None:
    key = torch.zeros(1, 1, 2000, 64)
    key[0, 0, :, 0] = torch.linspace(-60, 60, 2000)
    query = torch.zeros(1, 2, rows, 64)
    query[..., 0] = 1.0
    value = torch.randn(1, 1, 2000, 64)
    check([low(KeyRange(query, key, value, 0, 0, None))], 1999)


@pytest.mark.parametrize("rows", range(2, 9))
@pytest.mark.parametrize("keys", [9, 70, 300, 1337, 3000])
def test_each_of_a_few_queries_gets_what_it_gets_alone(rows: int, keys: int) -> None:
    """To the last bit, while a window grows, while it slides, and behind sinks."""
    query = torch.randn(1, 6, rows, 64).bfloat16() / 4
    key, value = (torch.randn(1, 2, keys, 64).bfloat16() for _ in range(2))
    start = keys - rows
    for farthest in (None, 40, 2048):
        near = KeyRange(query, key, value, 0, 0, farthest)
        sinks = KeyRange(query, key[:, :, :7], value[:, :, :7], 0, farthest or 5000, None)
        output, lse = attend([sinks, near], query_start=start, with_lse=True)
        assert lse is not None
        for row in range(rows):
            only = slice(row, row + 1)
            alone, alone_lse = attend(
                [replace(each, query=query[:, :, only]) for each in (sinks, near)],
                query_start=start + row,
                with_lse=True,
            )
            assert alone_lse is not None
            assert torch.equal(output[:, :, only], alone)
            assert torch.equal(lse[:, :, only], alone_lse)


def test_nan_is_not_hidden() -> None:
    key = torch.randn(1, 1, 40, 64).bfloat16()
    key[0, 0, 7, 3] = math.nan
    for rows in (1, 8, 40):
        query = torch.randn(1, 1, rows, 64).bfloat16()
        output, _ = attend([KeyRange(query, key, key, 0)], query_start=40)
        assert output.isnan().all()


def test_what_it_does_not_compute_goes_to_torch() -> None:
    def keys(size: int, dtype: torch.dtype) -> KeyRange:
        x = torch.randn(1, 1, 5, size).to(dtype)
        return KeyRange(x, x, x, 0)

    usual = keys(64, torch.bfloat16)
    assert native.can([usual])
    assert not native.can([usual] * 5)
    for size, dtype in ((32, torch.bfloat16), (64, torch.float32), (64, torch.float16)):
        assert not native.can([keys(size, dtype)])
        attend([keys(size, dtype)], query_start=0)
    strided = KeyRange(usual.query, usual.key.repeat(1, 1, 2, 1)[:, :, ::2], usual.value, 0)
    assert not native.can([strided])
