"""The sliding buffer against a list."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmi_cli.attention.segment import Recent
from lmi_cli.cache.buffer import SlidingBuffer


def tokens(first: int, count: int, sign: int = 1) -> tuple[Tensor, Tensor]:
    """Keys and values that carry their own position."""
    numbers = torch.arange(first, first + count, dtype=torch.float64) * sign
    return numbers.expand(2, 3, -1)[..., None].repeat(1, 1, 1, 4), numbers.expand(2, 3, -1)[
        ..., None
    ]


def holds(buffer: SlidingBuffer, first: int, stop: int, sign: int = 1) -> bool:
    key, value = tokens(first, stop - first, sign)
    same = torch.equal(buffer.key, key) and torch.equal(buffer.value, value)
    return same and buffer.start == first and len(buffer) == stop - first


@settings(max_examples=150, derandomize=True)
@given(
    window=st.one_of(st.none(), st.integers(1, 40)),
    chunk=st.integers(1, 12),
    origin=st.sampled_from([0, 2**40]),
    data=st.data(),
)
def test_holds_what_the_next_query_sees(
    window: int | None, chunk: int, origin: int, data: st.DataObject
) -> None:
    buffer, position = SlidingBuffer(Recent(window), chunk), origin
    counts = data.draw(st.lists(st.integers(1, chunk), max_size=40))
    cloned = data.draw(st.integers(0, 40))
    for turn, count in enumerate(counts):
        if turn == cloned:
            buffer = buffer.clone()
        buffer.append(*tokens(position, count), position)
        first = origin if window is None else max(origin, position - window + 1)
        position += count
        assert holds(buffer, first, position)
        if window is not None:
            assert buffer.capacity <= Recent(window).capacity(chunk)


@pytest.mark.parametrize("window", [None, 4, 30])
@pytest.mark.parametrize("length", [0, 3, 29, 64])
def test_clones_go_their_own_ways(window: int | None, length: int) -> None:
    one = SlidingBuffer(Recent(window), 5)
    for position in range(0, length, 5):
        one.append(*tokens(position, min(5, length - position)), position)
    other = one.clone()
    before = (one.start, len(one))
    for position in range(length, length + 100):
        other.append(*tokens(position, 1, sign=-1), position)
    if length:
        assert holds(one, before[0], length)
    for position in range(length, length + 100):
        one.append(*tokens(position, 1), position)
    first = 0 if window is None else max(0, length + 100 - window)
    assert holds(one, first, length + 100)
    if window is not None:
        assert holds(other, first, length + 100, sign=-1)


@pytest.mark.parametrize("length", [1, 29, 64])
def test_a_clone_takes_no_more_than_its_bound(length: int) -> None:
    buffer = SlidingBuffer(Recent(20), 16)
    for position in range(0, length, 16):
        buffer.append(*tokens(position, min(16, length - position)), position)
    assert buffer.clone().capacity <= Recent(20).capacity(16)


def test_sliding_moves_little() -> None:
    """One token at a time, the window is moved at most once in an eighth of its length."""
    window = 800
    buffer, moves, place = SlidingBuffer(Recent(window), 1), 0, 0
    for position in range(3 * window):
        buffer.append(*tokens(position, 1), position)
        moves += buffer.key.storage_offset() < place
        place = buffer.key.storage_offset()
    assert moves <= 3 * 8


def test_growth_is_amortised() -> None:
    buffer, sizes = SlidingBuffer(Recent(None), 8), set()
    for position in range(0, 4000, 8):
        buffer.append(*tokens(position, 8), position)
        sizes.add(buffer.capacity)
    assert len(sizes) < 20
    assert buffer.capacity <= 1.5 * 4000
    assert buffer.nbytes == buffer.capacity * 2 * 3 * (4 + 1) * 8


def test_an_empty_buffer_has_no_keys() -> None:
    buffer = SlidingBuffer(Recent(4), 4)
    assert len(buffer) == buffer.nbytes == buffer.capacity == 0
    with pytest.raises(RuntimeError):
        _ = buffer.key


@pytest.mark.parametrize("window", [None, 1, 5])
def test_a_reserved_column_is_one_token_appended(window: int | None) -> None:
    """The caller writes it; everything else is as if it had been appended."""
    buffer, appended = SlidingBuffer(Recent(window), 4), SlidingBuffer(Recent(window), 4)
    for each in (buffer, appended):
        each.append(*tokens(0, 3), 0)
    for position in range(3, 60):
        appended.append(*tokens(position, 1), position)
        column = buffer.reserve(1, position)
        span = buffer.span
        assert span is not None
        for tensor, new in zip(span[:2], tokens(position, 1), strict=True):
            tensor[:, :, column : column + 1] = new
        assert span.begin + len(buffer) == column + 1
        assert torch.equal(buffer.key, appended.key) and buffer.start == appended.start


def test_nothing_can_be_reserved_before_a_token_is_known() -> None:
    with pytest.raises(RuntimeError, match="empty"):
        SlidingBuffer(Recent(5), 4).reserve(1, 0)
    assert SlidingBuffer(Recent(5), 4).span is None
