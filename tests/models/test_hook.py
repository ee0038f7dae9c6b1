"""What the hook changes in a model, and that it puts everything back."""

import gc
import tracemalloc
from typing import Any

import pytest
import torch
from tiny_models import our_logits, random_ids, stock_logits, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmi_cli.engine.engine import Engine
from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models import hook
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.families import FAMILIES

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")


def trace(model: PreTrainedModel) -> dict[str, Any]:
    """Everything in which a patched model could differ from an untouched one."""
    return {
        "functions": dict(ALL_ATTENTION_FUNCTIONS),
        "own functions": dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        "masks": dict(ALL_MASK_ATTENTION_FUNCTIONS),
        "config": model.config.to_dict(),
        "implementation": model.config._attn_implementation,
        "config attributes": sorted(vars(model.config)),
        "classes": {name: type(module) for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: [len(getattr(module, kind)) for kind in _HOOKS]
            for name, module in model.named_modules()
        },
        "forwards": {name: module.forward for name, module in model.named_modules()},
        "buffers": {name: id(buffer) for name, buffer in model.named_buffers()},
    }


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma2", "gemma3_text"])
def test_no_trace(name: str) -> None:
    model = tiny_model(name, torch.float32)
    before, logits = trace(model), stock_logits(model, random_ids(20))
    our_logits(model, LMInfinite(4, 2, 4), random_ids(20), 7)
    assert trace(model) == before
    assert torch.equal(stock_logits(model, random_ids(20)), logits)


def test_no_trace_of_a_pass_that_failed() -> None:
    model = tiny_model("llama")
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
def test_opening_a_model_a_thousand_times_leaves_nothing() -> None:
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
        for _ in range(1000):
            turn()
        more_objects, more_size = used()
    finally:
        tracemalloc.stop()
    assert more_objects - objects < 50
    assert more_size - size < 100_000


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bloom", {"n_layer": 1, "n_head": 4}),
        ("falcon", {"num_hidden_layers": 1, "num_attention_heads": 4}),
    ],
)
def test_a_model_that_cannot_be_hooked(name: str, sizes: dict[str, int]) -> None:
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(name, vocab_size=64, hidden_size=32, **sizes, **ends)
    model = AutoModelForCausalLM.from_config(config)
    before = trace(model)
    with pytest.raises(ModelError, match="cannot be replaced"), hook.installed(model):
        pytest.fail("installed")
    assert trace(model) == before


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


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_mask_is_ever_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal positions a stock mask would take the text for packed sequences."""
    masks: list[object] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        masks.append(arguments[4])
        return function(*arguments, **options)

    def never(*_: object, **__: object) -> None:
        pytest.fail("a stock mask was built")

    function = hook.attention_function
    monkeypatch.setattr(hook, "attention_function", spy)
    for implementation in list(ALL_MASK_ATTENTION_FUNCTIONS):
        monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, implementation, never)
    our_logits(tiny_model(name, torch.float32), LMInfinite(4, 2, 4), random_ids(20), 10)
    assert masks
    assert set(masks) == {None}
