"""Every family of the table against its stock implementation and against the definition."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Lambda, reference_logits
from tiny_models import our_logits, random_ids, stock_logits, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.families import FAMILIES, family_of, layer_specs

COUNT = 60


@pytest.mark.parametrize("name", sorted(FAMILIES))
class TestEveryFamily:
    @pytest.mark.parametrize("method", [Full(), LMInfinite(COUNT, 4, COUNT)], ids=str)
    def test_equals_stock_in_float32(self, name: str, method: Any) -> None:
        model, ids = tiny_model(name, torch.float32), random_ids(COUNT)
        stock = stock_logits(model, ids)
        for chunk in (COUNT, 7):
            ours = our_logits(model, method, ids, chunk)
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)

    def test_equals_the_definition_past_the_window(self, name: str) -> None:
        model, ids = tiny_model(name), random_ids(COUNT)
        reference = reference_logits(model, ids, Lambda(10, 4, 17))
        ours = our_logits(model, LMInfinite(10, 4, 17), ids, 7)
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["llama", "llama-yarn", "phi3-longrope", "gemma3_text"])
def test_loading_in_bfloat16_leaves_the_frequencies_alone(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, torch.float32)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    for wide, narrow in zip(layer_specs(model, 64), layer_specs(loaded, 64), strict=True):
        assert wide.rotary.inv_freq.dtype == narrow.rotary.inv_freq.dtype == torch.float32
        assert torch.equal(wide.rotary.inv_freq, narrow.rotary.inv_freq)


def windows(name: str, **changes: Any) -> list[int | None]:
    model = tiny_model(name, **changes)
    return [layer.native_window for layer in layer_specs(model, 64)]


def test_native_windows() -> None:
    assert windows("llama") == [None, None]
    assert windows("mistral") == [None, None]
    assert windows("mistral-sliding") == [12, 12]
    assert windows("gemma3_text") == [12, None, 12, None]
    assert windows("cohere2") == [12, None]
    assert windows("qwen2", sliding_window=12) == [None, None]
    assert windows("qwen2", sliding_window=12, use_sliding_window=True, max_window_layers=1) == [
        None,
        12,
    ]


def test_frequency_sets() -> None:
    """Layers of one kind share one object, so that their phases are computed once."""
    one, other = layer_specs(tiny_model("llama"), 64)
    assert one.rotary is other.rotary
    local, wide, again, _ = layer_specs(tiny_model("gemma3_text"), 64)
    assert local.rotary is again.rotary
    assert not torch.equal(local.rotary.inv_freq, wide.rotary.inv_freq)
    assert [layer.rotary is None for layer in layer_specs(tiny_model("smollm3"), 64)] == [
        False,
        True,
    ]
    assert [layer.rotary is None for layer in layer_specs(tiny_model("cohere2"), 64)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo"])
def test_learned_positions_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="learned absolute positions") as refusal:
        family_of(AutoConfig.for_model(name))
    assert "llama" in refusal.value.hint


@pytest.mark.parametrize("name", ["bloom", "mamba", "t5"])
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="not supported"):
        family_of(AutoConfig.for_model(name))
