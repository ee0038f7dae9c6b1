"""Models with recurrent layers: their state is carried, and is that of the stock model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from numpy.typing import NDArray
from recurrent_models import FAMILIES, HYBRID, PURE, VOCABULARY, recurrent_model
from tiny_models import precisely
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from lmi_cli.cache.state import StreamState
from lmi_cli.engine.batch import decode_batch
from lmi_cli.engine.drafts import Drafter, Drafts, Places
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError, UsageError
from lmi_cli.methods import LMInfinite, Method, Native
from lmi_cli.models import selfcheck
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.families import family_of
from lmi_cli.models.layer_facts import layers_of
from lmi_cli.models.recurrent_small import state_bytes
from lmi_cli.models.scan import selective_scan

EXACT = 1e-10
LAMBDA = LMInfinite(window=9, sinks=3, ceiling=13)
STEPS_ROUND = ("nemotron_h", "zamba2")
"""Stock models whose step for one token leaves out the least step size of their scan."""

Ids = NDArray[np.int32]


def ids_of(count: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count, dtype=np.int32)


def stock_hidden(model: PreTrainedModel, ids: Ids) -> Tensor:
    with torch.inference_mode(), precisely(model):
        found: Tensor = model.base_model(
            input_ids=torch.from_numpy(ids).long()[None], use_cache=False
        ).last_hidden_state
    return found[0]


def read(engine: Engine, state: StreamState, ids: Ids, size: int) -> Tensor:
    parts = (ids[at : at + size] for at in range(0, len(ids), size))
    return torch.cat([engine.forward(state, part) for part in parts])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> PreTrainedModel:
    return recurrent_model(family)


@pytest.fixture
def lm(model: PreTrainedModel) -> Iterator[CausalLM]:
    with CausalLM(model) as opened, precisely(model):
        yield opened


def test_chunks_are_the_stock_model_in_one_pass(family: str, model: PreTrainedModel) -> None:
    ids = ids_of(30)
    expected = stock_hidden(model, ids)
    with CausalLM(model) as lm, precisely(model):
        for size in (30, 7):
            engine = Engine(lm, Native(), chunk=64)
            found = read(engine, engine.start(), ids, size)
            assert (found - expected).abs().max() < EXACT, size
        engine = Engine(lm, Native(), chunk=1)
        found = read(engine, engine.start(), ids, 1)
        limit = 1e-2 if family in STEPS_ROUND else EXACT
        assert (found - expected).abs().max() < limit


def test_past_the_window_chunks_do_not_matter(family: str, lm: CausalLM) -> None:
    """Attention layers are LM-Infinite's; the self-check compares them with a formula."""
    ids = ids_of(60)
    whole, engine = Engine(lm, LAMBDA, chunk=64), Engine(lm, LAMBDA, chunk=5)
    expected = read(whole, whole.start(), ids, 60)
    state = engine.start()
    assert (read(engine, state, ids, 5) - expected).abs().max() < EXACT
    native = Engine(lm, Native(), chunk=64)
    apart = (read(native, native.start(), ids, 60) - expected).abs().max()
    assert (apart > 1e-6) == (family in HYBRID)


def test_forks_undone_passes_and_saved_states_go_on_alike(lm: CausalLM) -> None:
    ids, more, other = ids_of(23), ids_of(9, 1), ids_of(9, 2)
    engine = Engine(lm, LAMBDA, chunk=16)
    state = engine.start()
    read(engine, state, ids, 16)
    fork, saved = state.fork(), {name: x.clone() for name, x in state.save().items()}
    expected = engine.forward(state, more)
    assert (engine.forward(state, more) - expected).abs().max() > 1e-6, "a state has no effect"

    engine.forward(fork.fork(), other)  # what a question reads changes nothing
    fork.begin_pass()
    attention_fails = RuntimeError("in the middle of a pass")
    with pytest.raises(RuntimeError, match="middle"):
        raise attention_fails
    fork.undo_pass()
    assert torch.equal(engine.forward(fork, more), expected)

    restored = engine.start()
    restored.restore(saved, lm.layer_devices())
    assert torch.equal(engine.forward(restored, more), expected)
    assert restored.save().keys() == state.save().keys()


def test_a_pass_that_fails_leaves_the_state_before_it(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(12)
    engine = Engine(lm, LAMBDA, chunk=16)
    state = engine.start()
    engine.forward(state, ids)
    before = {name: tensor.clone() for name, tensor in state.recurrent.items()}
    last = getattr(lm.model.base_model, lm._layers_name)[-1]

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(last, "forward", fail)
        with pytest.raises(MemoryError):
            engine.forward(state, ids)
    state.undo_pass()
    assert all(torch.equal(state.recurrent[name], tensor) for name, tensor in before.items())
    again = engine.start()
    engine.forward(again, ids)
    assert torch.equal(engine.forward(state, ids), engine.forward(again, ids))


@pytest.mark.parametrize("name", ["lfm2", "rwkv"])
def test_offloaded_weights_carry_the_same_state(name: str) -> None:
    ids = ids_of(20)

    def found(model: PreTrainedModel) -> Tensor:
        with CausalLM(model) as lm:
            engine = Engine(lm, LAMBDA, chunk=16)
            return lm.logits(read(engine, engine.start(), ids, 7))

    def built() -> PreTrainedModel:
        torch.manual_seed(0)
        return recurrent_model(name, torch.float32, num_hidden_layers=3)

    expected = found(built())
    offloaded = cpu_offload(built(), execution_device=torch.device("cpu"))
    assert any(weight.is_meta for weight in offloaded.parameters())
    # In memory, RWKV is scaled layer by layer, beside the epsilon of its norms.
    limit = 1e-2 if name == "rwkv" else 1e-5
    assert (found(offloaded) - expected).abs().max() < limit


def test_decoding_is_generate(family: str) -> None:
    model = recurrent_model(family, torch.float32)
    prompt = ids_of(20)
    with torch.inference_mode():
        # The arguments say that nothing ends the text.
        stock = model.generate(
            torch.from_numpy(prompt).long()[None],
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
            **({} if family == "rwkv" else {"attention_mask": torch.ones(1, 20).long()}),
        )[0, 20:].tolist()
    with CausalLM(model) as lm:
        for method in (Native(), LMInfinite(window=64, sinks=3, ceiling=64)):
            engine = Engine(lm, method, chunk=7)
            state = engine.start()
            last = read(engine, state, prompt, 7)[-1]
            found = engine.decode(
                state, last, stop_ids=frozenset(), limit=8, sampling=Sampling(temperature=0.0)
            )
            assert [each.token for each in found] == stock


def test_nothing_of_transformers_stays_changed(family: str, model: PreTrainedModel) -> None:
    module = __import__(type(model).__module__, fromlist=["x"])
    before = {name: value for name, value in vars(module).items() if callable(value)}
    implementation = model.config._attn_implementation
    with CausalLM(model) as first, CausalLM(recurrent_model(family)):
        first.close()
        changed = {name for name, value in before.items() if vars(module)[name] is not value}
        scans = {"mamba_selective_scan", "mamba_selective_state_update"}
        assert changed == (scans if scans <= before.keys() else set())
        with pytest.raises(RuntimeError, match="closed"):
            first.hidden(torch.zeros(1, 1).long(), engine_attention(first, Native()))
    assert all(vars(module)[name] is value for name, value in before.items())
    assert model.config._attn_implementation == implementation


def engine_attention(lm: CausalLM, method: Method) -> Any:
    from lmi_cli.engine.forward import ForwardPass

    return ForwardPass(StreamState(method, [], 4), [], 1)


def test_layers_without_attention_cost_no_cache(family: str) -> None:
    with CausalLM(recurrent_model(family, torch.float32)) as lm:
        engine = Engine(lm, Native(), chunk=8)
        state = engine.start()
        engine.forward(state, ids_of(8))
        facts = layers_of(lm.config, [])
        attending = [layer for layer in facts if layer.attends]
        assert len(state.caches) == len(engine.layers) == len(attending) == len(lm.layer_devices())
        assert [spec.index for spec in engine.layers] == list(range(len(attending)))
        assert bool(attending) == (family in HYBRID)
        assert any(layer.recurrent for layer in facts)
        assert lm.is_recurrent
        carried = sum(tensor.nbytes for tensor in state.recurrent.values())
        assert state.nbytes == carried + sum(cache.nbytes for cache in state.caches)
        assert carried == state_bytes(lm.config)


def test_the_self_check_sees_a_state_that_is_dropped(
    family: str, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert max(selfcheck.differences(model.config)) < 1e-5
    monkeypatch.setattr(StreamState, "end_pass", _forgetting(StreamState.end_pass))
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(model.config)


def _forgetting(end_pass: Any) -> Any:
    def forget(state: StreamState, count: int, recurrent: Any = None) -> None:
        end_pass(state, count, {})

    return forget


def test_every_row_is_tested() -> None:
    from lmi_cli.models.families import RECURRENT

    assert set(FAMILIES) == set(RECURRENT)
    assert set(PURE).isdisjoint(HYBRID)


def test_other_recurrent_families_are_refused() -> None:
    with pytest.raises(ModelError, match="minimax: this family is not supported"):
        family_of(AutoConfig.for_model("minimax"))


@pytest.mark.parametrize("name", ["mamba", "bamba"])
def test_nothing_is_forgotten_and_so_nothing_drafted(name: str) -> None:
    with CausalLM(recurrent_model(name, torch.float32)) as lm:
        with pytest.raises(UsageError, match="cannot forget"):
            Drafts(lm, "suffix", ids_of(9))
        assert Drafts(lm, "auto", ids_of(9)).of([ids_of(9)]) is None
        engine = Engine(lm, Native(), chunk=16)
        state = engine.start()
        hidden = engine.forward(state, np.tile(ids_of(4), 4))
        with pytest.raises(RuntimeError, match="cannot forget"):
            state.rewind(15)
        state.rewind(16)
        alone = [state.fork() for _ in range(2)]
        drafter = Drafter(Places(ids_of(4)), np.tile(ids_of(4), 4))
        found = decode_batch(
            engine,
            alone,
            [hidden[-1], hidden[-1]],
            stop_ids=frozenset(),
            limit=4,
            sampling=Sampling(temperature=0.0),
            drafters=[drafter, None],
        )
        tokens: list[list[int]] = [[], []]
        for stream, each in found:
            tokens[stream].append(each.token)
        assert tokens[0] == tokens[1]
        assert not drafter.answer


def test_the_scan_in_blocks_is_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(0)
    x, dt = (torch.rand(2, 3, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    b, c = (torch.randn(2, 4, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    a = -torch.rand(3, 4, generator=generator)
    state = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    expected, h = [], state
    for t in range(50):
        step = dt[..., t, None]
        h = (step * a).exp() * h + step * b[:, None, :, t] * x[..., t, None]
        expected.append((h * c[:, None, :, t]).sum(-1))
    found, last = selective_scan(x, dt, a, b, c, state)
    assert (found - torch.stack(expected, -1)).abs().max() < 1e-12
    assert (last - h).abs().max() < 1e-12
    parts = (slice(0, 21), slice(21, 50))
    half, middle = _scanned(parts[0], (x, dt, a, b, c), state)
    rest, end = _scanned(parts[1], (x, dt, a, b, c), middle)
    assert torch.equal(torch.cat((half, rest), -1), found)
    assert torch.equal(end, last)


def _scanned(part: slice, whole: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    x, dt, a, b, c = whole
    return selective_scan(x[..., part], dt[..., part], a, b[..., part], c[..., part], state)


def test_a_long_stream_is_one_pass_in_constant_memory() -> None:
    """Two hundred thousand tokens, whose state depends on all of them."""
    model = recurrent_model(
        "mamba", hidden_size=2, num_hidden_layers=1, state_size=2, expand=1, time_step_rank=1
    )
    with torch.no_grad():
        model.base_model.layers[0].mixer.A_log.fill_(-9.0)  # forgets over thousands of tokens
    ids = ids_of(200_000)
    with CausalLM(model) as lm:
        whole = Engine(lm, Native(), chunk=len(ids))
        one = whole.start()
        expected = whole.forward(one, ids)
        engine = Engine(lm, Native(), chunk=20_000)
        state, sizes = engine.start(), set()
        for event in engine.read(state, [ids]):
            at = slice(event.tokens - len(event.hidden), event.tokens)
            assert (event.hidden - expected[at]).abs().max() < EXACT
            sizes.add((state.nbytes, sum(x.nbytes for x in state.save().values())))
        assert len(sizes) == 1
        for name, tensor in one.recurrent.items():
            assert (state.recurrent[name] - tensor).abs().max() < EXACT
        changed = ids.copy()
        changed[199_000] = (changed[199_000] + 1) % VOCABULARY
        fresh = engine.start()
        *_, end = engine.read(fresh, [changed])
        assert not torch.equal(end.last, expected[-1])
