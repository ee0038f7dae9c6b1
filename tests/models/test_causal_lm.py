"""A loaded model as the engine sees it."""

import pytest
import torch
from tiny_models import VOCABULARY, random_ids, stock_logits, tiny_model

from lmi_cli.engine.engine import Engine
from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.models.causal_lm import CausalLM


@pytest.mark.parametrize("rows", [1, 3, 20, 100])
@pytest.mark.parametrize("name", ["llama", "cohere", "gemma2", "granite", "phi"])
def test_logits_come_in_slices(name: str, rows: int) -> None:
    """Scaling, soft-cap and bias of the head are each model's own."""
    model, ids = tiny_model(name, torch.float32), random_ids(20)
    stock = stock_logits(model, ids)
    with CausalLM(model) as lm:
        engine = Engine(lm, Full())
        hidden = engine.forward(engine.start(), ids)
        slices = list(lm.logits_in_slices(hidden, rows))
        whole = lm.logits(hidden[None])
    assert max(len(part) for part in slices) <= rows
    torch.testing.assert_close(torch.cat(slices), stock, rtol=0, atol=1e-4)
    torch.testing.assert_close(whole[0], torch.cat(slices), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "logits"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_logits_are_wide(dtype: torch.dtype, logits: torch.dtype) -> None:
    with CausalLM(tiny_model("llama", dtype)) as lm:
        assert lm.dtype == dtype
        hidden = torch.zeros(2, 3, 32, dtype=dtype)
        assert lm.logits(hidden).dtype == logits
        assert lm.logits(hidden).shape == (2, 3, VOCABULARY)


def test_low_precision_stays_near() -> None:
    """In bfloat16 at most twice as far from float64 as stock is."""
    ids = random_ids(60)
    narrow = tiny_model("llama", torch.float32).to(torch.bfloat16)
    wide = tiny_model("llama", torch.float32)
    for loose, exact in zip(wide.parameters(), narrow.parameters(), strict=True):
        loose.data = exact.data.float()
    narrow.model.rotary_emb.inv_freq = wide.model.rotary_emb.inv_freq
    true = stock_logits(wide, ids)
    with CausalLM(narrow) as lm:
        engine = Engine(lm, Full(), 7)
        state = engine.start()
        passes = [engine.forward(state, part) for part in (ids[:7], ids[7:14], ids[14:])]
        ours = lm.logits(torch.cat(passes))
    budget = 2 * (stock_logits(narrow, ids).float() - true).abs().mean()
    assert (ours - true).abs().mean() <= budget


def test_facts() -> None:
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        assert lm.trained_length == 128
        assert lm.vocab_size == VOCABULARY
        assert lm.device == torch.device("cpu")
        assert lm.device_map == {"": "cpu"}
        untied = lm.weights_bytes
    with CausalLM(tiny_model("llama-tied", torch.float32)) as lm:
        assert lm.weights_bytes == untied - VOCABULARY * 32 * 4


def test_an_unknown_family_is_refused_untouched() -> None:
    model = tiny_model("llama")
    model.config.model_type = "unheard-of"
    with pytest.raises(ModelError, match="unheard-of"):
        CausalLM(model)
    assert model.config._attn_implementation == "sdpa"
