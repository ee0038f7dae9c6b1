"""Memory that runs out within a pass: the chunk is halved once, and nothing is seen twice."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model

from lmi_cli.cache import store as store_module
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine import forward as forward_module
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ResourceError
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.causal_lm import CausalLM

METHOD = LMInfinite(9, 4, 21)
TOKENS = 40
ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"),
]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, calls: set[int], error: Exception) -> Iterator[None]:
    """Let the attention calls of these numbers fail, the first being 1."""
    original, count = forward_module.attend, 0

    def attend(*arguments: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count in calls:
            raise error
        return original(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(forward_module, "attend", attend)
        yield


@pytest.fixture
def engine() -> Iterator[Engine]:
    model = tiny_model("llama")
    with CausalLM(model) as lm, precisely(model):
        yield Engine(lm, METHOD, 12)


def read(engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden state, and every key that a store has taken up."""
    state = engine.start()
    store = TokenStore(dict.fromkeys(range(len(engine.layers))), with_values=True, first=4)
    state.recording = (store,)
    for event in engine.read(state, [random_ids(TOKENS)]):
        last = event.last
    assert state.tokens == TOKENS and store.tokens == TOKENS - 4
    return last, torch.cat([key for layer in store.heads for key in store.keys(layer)], 2)


@pytest.mark.parametrize("call", range(1, 9))
def test_reading_goes_on_in_half_the_chunk(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(store_module, "BLOCK_TOKENS", 8)
    whole = read(Engine(engine.model, METHOD, 12))
    with failing(monkeypatch, {call}, ERRORS[call % len(ERRORS)]):
        halved = read(engine)
    assert engine.chunk == (6 if call <= 6 else 2)  # the last part has four tokens
    for ours, theirs in zip(halved, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_scores_are_those_of_a_reading_that_did_not_fail(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(TOKENS)
    whole = Engine(engine.model, METHOD, 12)
    expected = np.concatenate([part.nll for part in whole.score(whole.start(), [ids])])
    with failing(monkeypatch, {5}, MemoryError()):
        found = np.concatenate([part.nll for part in engine.score(engine.start(), [ids])])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_second_time_it_is_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        failing(monkeypatch, {3, 4}, MemoryError()),
        pytest.raises(ResourceError, match="12 tokens, 6 at a time"),
    ):
        read(engine)


def test_one_token_cannot_be_halved(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    state = engine.start()
    for event in engine.read(state, [random_ids(5)]):
        last = event.last
    steps = engine.decode(state, last, stop_ids=frozenset(), limit=3, sampling=Sampling())
    next(steps)
    with failing(monkeypatch, {1}, MemoryError()), pytest.raises(ResourceError):
        next(steps)
    with pytest.raises(RuntimeError, match="half-written"):
        state.fork()


def test_other_failures_are_not_taken_for_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        failing(monkeypatch, {2}, RuntimeError("shapes do not match")),
        pytest.raises(RuntimeError, match="shapes"),
    ):
        read(engine)
    assert engine.chunk == 12
