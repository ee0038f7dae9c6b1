"""What a stream leaves behind."""

import pytest
import torch
from tiny_models import random_ids, tiny_model

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Region
from lmi_cli.cache.layer import LayerCache
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import Engine
from lmi_cli.methods.base import Method, Retention
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite, Memory
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


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 5), (5,), (3,)])
def test_sinks_are_the_first_tokens(counts: tuple[int, ...]) -> None:
    cache, position = LayerCache(Retention(3, 4), 5), 0
    for count in counts:
        key = torch.arange(position, position + count).double()[None, None, :, None]
        if missing := cache.missing_sinks():
            cache.add_sinks(key[:, :, :missing], -key[:, :, :missing])
        position += count
    assert cache.missing_sinks() == 0
    key, value, start = cache.region(Region.SINKS)
    assert (start, key.flatten().tolist(), (-value).flatten().tolist()) == (0, [0, 1, 2], [0, 1, 2])


def test_stored_sinks_do_not_hold_the_chunk_they_came_from() -> None:
    cache = LayerCache(Retention(2, 4), 1000)
    chunk = torch.zeros(1, 1, 1000, 4)
    cache.add_sinks(chunk[:, :, :2], chunk[:, :, :2])
    key, value, _ = cache.region(Region.SINKS)
    assert key.untyped_storage().nbytes() == value.untyped_storage().nbytes() == 2 * 4 * 4


def test_sinks_lie_close_whatever_they_are_a_part_of() -> None:
    """What computes attention may ask for rows that follow each other without a gap."""
    projected = torch.arange(48.0).view(1, 4, 3, 4)  # as a projection leaves it: tokens first
    cache = LayerCache(Retention(sinks=3, window=2), 4)
    cache.add_sinks(projected.transpose(1, 2)[:, :, :2], projected.transpose(1, 2)[:, :, :2])
    for _ in range(2):
        assert cache.sinks is not None
        assert all(part.is_contiguous() for part in cache.sinks)
        assert torch.equal(cache.sinks[0][0, 1, 1], projected[0, 1, 1])
        cache.add_sinks(projected.transpose(1, 2)[:, :, 2:3], projected.transpose(1, 2)[:, :, 2:3])


def test_layers_that_see_alike_share_what_they_see() -> None:
    layers = [LayerSpec(0), LayerSpec(1, native_window=4), LayerSpec(2)]
    state = StreamState(LMInfinite(9, 3, 13), layers, 8)
    assert state.segments[0] is state.segments[2]
    assert state.segments == [state.method.segments(layer) for layer in layers]
    other = state.fork(LMInfinite(9, 3, 13, Memory(2, 1, 4)))
    assert other.segments == [other.method.segments(layer) for layer in layers]
