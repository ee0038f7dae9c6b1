"""What the hook changes in a model, and that it puts everything back."""

import gc
import tracemalloc

import pytest
import torch
from tiny_models import random_ids, stock_logits, tiny_model, trace
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmi_cli.engine.engine import Engine
from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models import hook
from lmi_cli.models.causal_lm import CausalLM


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_no_trace_of_a_pass_that_failed(name: str) -> None:
    model = tiny_model(name)
    before = trace(model)

    class FailingError(Exception):
        pass

    class Failing:
        def attend(self, *_: object, **__: object) -> None:
            raise FailingError

    with pytest.raises(FailingError), CausalLM(model) as lm:
        lm.hidden(torch.tensor([[3, 4]]), Failing())
    assert trace(model) == before


def test_closing_twice_is_closing_once() -> None:
    model = tiny_model("llama")
    before = trace(model)
    lm = CausalLM(model)
    lm.close()
    lm.close()
    assert trace(model) == before


@pytest.mark.slow
def test_opening_a_model_again_and_again_leaves_nothing() -> None:
    model = tiny_model("llama", torch.float32)

    def turn() -> None:
        with CausalLM(model) as lm:
            engine = Engine(lm, LMInfinite(4, 2, 4), 8)
            list(engine.read(engine.start(), [random_ids(8)]))

    def used() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    for _ in range(50):  # until whatever is kept on purpose is there
        turn()
    tracemalloc.start()
    try:
        objects, size = used()
        for _ in range(400):
            turn()
        more_objects, more_size = used()
    finally:
        tracemalloc.stop()
    assert more_objects - objects < 50
    assert more_size - size < 100_000


def test_a_model_that_cannot_be_hooked() -> None:
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    sizes = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global"], 2]],
    }
    config = AutoConfig.for_model("gpt_neo", vocab_size=64, **sizes, **ends)
    model = AutoModelForCausalLM.from_config(config)
    before = trace(model)
    with pytest.raises(ModelError, match="cannot be replaced"), hook.installed(model):
        pytest.fail("installed")
    assert trace(model) == before


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_model_called_by_others_while_it_is_open(name: str) -> None:
    """Without positions it would answer from a bag of words."""
    model = tiny_model(name, torch.float32)
    with CausalLM(model), pytest.raises(RuntimeError, match="whose attention is replaced"):
        stock_logits(model, random_ids(5))


@pytest.mark.parametrize("name", ["llama", "falcon-alibi", "mpt"])
def test_a_model_has_its_own_attention_for_a_while(name: str) -> None:
    model, ids = tiny_model(name, torch.float32), random_ids(12)
    expected = stock_logits(model, ids)
    with CausalLM(model) as lm:
        before = trace(model)
        with lm.with_own_attention("sdpa") as stock:
            assert torch.equal(stock_logits(stock, ids), expected)
        after = trace(model)
        # Forward methods are replaced by new ones.
        assert before.pop("forwards").keys() == after.pop("forwards").keys()
        assert after == before
        engine = Engine(lm, Full(), 12)
        hidden = engine.forward(engine.start(), ids)
        torch.testing.assert_close(lm.logits(hidden), expected, rtol=0, atol=1e-4)


def test_two_models_open_at_once_are_closed_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "_open", [])  # other tests may keep a model open
    monkeypatch.delitem(ALL_ATTENTION_FUNCTIONS, hook.IMPLEMENTATION, raising=False)
    one, other = CausalLM(tiny_model("llama")), CausalLM(tiny_model("gpt_neox"))
    one.close()
    engine = Engine(other, Full())
    engine.forward(engine.start(), random_ids(5))
    other.close()
    assert hook.IMPLEMENTATION not in ALL_ATTENTION_FUNCTIONS


def test_a_closed_model_does_not_answer() -> None:
    """With its stock attention back, position 0 everywhere would be a bag of words."""
    lm = CausalLM(tiny_model("llama"))
    engine = Engine(lm, Full())
    lm.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.forward(engine.start(), random_ids(5))
