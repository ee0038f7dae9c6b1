"""What a stream leaves behind."""

import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import First, Recent, Track
from lmi_cli.cache.layer import LayerCache, StartingTokens
from lmi_cli.cache.means import StateMeans
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import Engine
from lmi_cli.methods.base import Method
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.causal_lm import CausalLM


def test_memory_does_not_grow_with_the_stream() -> None:
    window, chunk = 16, 64
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        engine = Engine(lm, LMInfinite(window, 4, window), chunk)
        state, sizes = engine.start(), []
        for _ in engine.read(state, [random_ids(1000 * window)]):
            assert state.cached_tokens <= engine.bound()
            if state.tokens >= 10 * window:
                sizes.append(state.nbytes)
    assert state.tokens == 1000 * window
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("method", [Full(), LMInfinite(9, 4, 13)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gemma3_text"])
def test_what_is_kept_does_not_depend_on_the_cut(
    name: str, dtype: torch.dtype, tolerance: float, method: Method
) -> None:
    """What a fork keeps is exactly what the next query sees."""
    model, ids, kept = tiny_model(name, dtype), random_ids(50), []
    with CausalLM(model) as lm, precisely(model):
        for chunk in (50, 1, 2, 3, 7, 8, 9, 10, 18):
            engine = Engine(lm, method, chunk)
            state = engine.start()
            list(engine.read(state, [ids]))
            kept.append(state.fork().save())
    for other in kept[1:]:
        assert other.keys() == kept[0].keys()
        for place, tensor in other.items():
            torch.testing.assert_close(tensor, kept[0][place], rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", [Full(), LMInfinite(9, 4, 12)], ids=str)
@pytest.mark.parametrize("prefix", [0, 3, 40])
def test_forks_do_not_touch_each_other(method: Method, prefix: int) -> None:
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        engine = Engine(lm, method, 8)
        state = engine.start()
        list(engine.read(state, [random_ids(prefix)]))
        one, other, third = state.fork(), state.fork(), state.fork()
        ends = [random_ids(20, seed) for seed in (1, 2, 1)]
        steps = [list(engine.read(s, [e])) for s, e in zip((one, other, third), ends, strict=True)]
        assert state.tokens == prefix
        assert one.tokens == prefix + 20
        assert torch.equal(steps[0][-1].last, steps[2][-1].last)
        assert not torch.equal(steps[0][-1].last, steps[1][-1].last)
        again = list(engine.read(state, [ends[0]]))
        assert torch.equal(again[-1].last, steps[0][-1].last)


def test_a_fork_keeps_to_the_bound() -> None:
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        engine = Engine(lm, LMInfinite(20, 4, 20), 16)
        state = engine.start()
        list(engine.read(state, [random_ids(200)]))
        fork = state.fork()
        assert fork.cached_tokens <= engine.bound()
        assert fork.nbytes <= state.nbytes


def test_a_torn_state_is_refused() -> None:
    state = StreamState(Full(), [], 8)
    state.begin_pass()
    with pytest.raises(RuntimeError, match="half-written"):
        state.begin_pass()
    with pytest.raises(RuntimeError, match="half-written"):
        state.fork()


@pytest.mark.parametrize("method", [Full(), LMInfinite(6, 3, 9), LMInfinite(1, 1, 2)], ids=str)
@pytest.mark.parametrize("kept", range(1, 9))
def test_what_is_rewound_was_never_read(method: Method, kept: int) -> None:
    """Of the eight tokens of a pass, wherever in its buffer the window is."""
    with CausalLM(tiny_model("llama", torch.float64)) as lm:
        engine = Engine(lm, method, 8)
        for before in [*range(1, 6), *range(20, 40)]:
            state = engine.start()
            list(engine.read(state, [random_ids(before)]))
            straight = state.fork()
            new, other = random_ids(8, seed=1), random_ids(3, seed=2)
            engine.forward(state, new)
            state.rewind(state.position - 8 + kept)
            engine.forward(straight, new[:kept])
            assert state.position == straight.position
            found, expected = (engine.forward(each, other) for each in (state, straight))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_what_cannot_be_rewound() -> None:
    state = StreamState(Full(), [], 8)
    state.begin_pass()
    with pytest.raises(RuntimeError, match="half-written"):
        state.rewind(0)
    state.end_pass(5)
    for position in (-1, 6):
        with pytest.raises(ValueError, match="of 5"):
            state.rewind(position)
    state.rewind(3)
    assert state.position == 3
    state.means = StateMeans()
    with pytest.raises(RuntimeError, match="means"):
        state.rewind(2)


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 5), (5,), (3,)])
@pytest.mark.parametrize("origin", [0, 2**40])
def test_sinks_are_the_first_tokens(counts: tuple[int, ...], origin: int) -> None:
    sinks, position = StartingTokens(First(3)), origin
    for count in counts:
        key = torch.arange(position - origin, position - origin + count).double()
        key = key[None, None, :, None]
        if missing := sinks.takes(count):
            sinks.append(key[:, :, :missing], -key[:, :, :missing], position)
        position += count
    assert sinks.takes(9) == 0
    span = sinks.span
    assert span is not None
    key, value = span.live
    assert span.start == origin
    assert (key.flatten().tolist(), (-value).flatten().tolist()) == ([0, 1, 2], [0, 1, 2])


def test_stored_sinks_do_not_hold_the_chunk_they_came_from() -> None:
    sinks, chunk = StartingTokens(First(2)), torch.zeros(1, 1, 1000, 4)
    sinks.append(chunk[:, :, :2], chunk[:, :, :2], 0)
    assert sinks.span is not None
    for tensor in sinks.span.live:
        assert tensor.untyped_storage().nbytes() == 2 * 4 * 4


def test_sinks_lie_close_whatever_they_are_a_part_of() -> None:
    """What computes attention may ask for rows that follow each other without a gap."""
    projected = torch.arange(48.0).view(1, 4, 3, 4)  # as a projection leaves it: tokens first
    sinks, heads = StartingTokens(First(3)), projected.transpose(1, 2)
    sinks.append(heads[:, :, :2], heads[:, :, :2], 0)
    for _ in range(2):
        assert sinks.span is not None
        assert all(part.is_contiguous() for part in sinks.span[:2])
        assert torch.equal(sinks.span.key[0, 1, 1], projected[0, 1, 1])
        sinks.append(heads[:, :, 2:3], heads[:, :, 2:3], 2)


def numbers(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).double()[None, None, :, None]


@pytest.mark.parametrize("read", [0, 1, 3, 40])
def test_a_layer_restores_what_it_saved(read: int) -> None:
    tracks = (Track("window", Recent(7)), Track("all", Recent(None)), Track("sinks", First(2)))
    cache = LayerCache(tracks, 4)
    for start in range(0, read, 4):
        part = numbers(start, min(4, read - start))
        for _, cached in cache.tracks.values():
            if count := cached.takes(part.shape[2]):
                cached.append(part[:, :, :count], part[:, :, :count], start)
    again = LayerCache(tracks, 4)
    again.restore(cache.save(), read)
    for name in ("window", "all", "sinks"):
        one, two = cache.span(name), again.span(name)
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert (one.start, one.tokens) == (two.start, two.tokens)
            assert all(torch.equal(*parts) for parts in zip(one.live, two.live, strict=True))


def test_a_fork_keeps_the_tracks_of_its_state() -> None:
    layers = [LayerSpec(0)]
    state = StreamState(LMInfinite(9, 3, 13), layers, 8)
    with pytest.raises(ValueError, match="other tracks"):
        state.fork(LMInfinite(8, 3, 13))


def test_a_chunk_is_forgotten_where_it_ends() -> None:
    layers = [LayerSpec(0, native_window=5, chunked=True), LayerSpec(1)]
    state = StreamState(Full(), layers, 8)
    rooms, kept = [], []
    for count in (3, 2, 4):
        rooms.append(state.room)
        state.begin_pass()
        for cache in state.caches:
            _, track = cache.tracks["window"]
            track.append(torch.zeros(1, 1, count, 2), torch.zeros(1, 1, count, 2), 0)
        state.end_pass(count)
        spans = [cache.span("window") for cache in state.caches]
        kept.append([0 if span is None else span.tokens for span in spans])
    assert rooms == [5, 2, 5]
    assert kept == [[3, 3], [0, 5], [4, 9]]
    with pytest.raises(RuntimeError, match="cannot forget what it has read"):
        state.rewind(8)
    assert (LayerSpec(0).place(12), layers[0].place(12)) == (12, 2)


def test_layers_that_see_alike_share_what_they_see() -> None:
    layers = [LayerSpec(0), LayerSpec(1, native_window=4), LayerSpec(2)]
    state = StreamState(LMInfinite(9, 3, 13), layers, 8)
    assert state.segments[0] is state.segments[2]
    assert state.segments == [state.method.segments(layer) for layer in layers]
    other = state.fork(LMInfinite(9, 3, 13, 2, 1, 4))
    assert other.segments == [other.method.segments(layer) for layer in layers]
