"""While the text fits the window, nothing may change: ours is the stock model."""

import pytest
import torch
from reference import Lambda, reference_logits
from tiny_models import our_logits, random_ids, stock_logits, tiny_model

from lmi_cli.methods.base import Method
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite

COUNT = 50
MODELS = [
    "llama",
    "llama-mha",
    "llama-mqa",
    "llama-tied",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-dynamic",
    "cohere",
    "cohere2",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "mistral",
    "mistral-sliding",
    "phi",
    "phi3-longrope",
    "qwen3",
    "smollm3",
]
WIDE = [Full(), LMInfinite(COUNT, 4, COUNT), LMInfinite(2 * COUNT, 0, 3 * COUNT)]


@pytest.mark.parametrize("method", WIDE, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_equals_stock_in_float64(name: str, method: Method) -> None:
    model, ids = tiny_model(name), random_ids(COUNT)
    stock = stock_logits(model, ids)
    for chunk in (COUNT, 7):
        ours = our_logits(model, method, ids, chunk)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, stock, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_equals_stock(name: str) -> None:
    """What the tests past the window compare with is itself compared with stock."""
    model, ids = tiny_model(name), random_ids(COUNT)
    reference = reference_logits(model, ids, Lambda(COUNT, 4, COUNT))
    torch.testing.assert_close(reference, stock_logits(model, ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [20, 50], ids=["short", "long"])
def test_a_frequency_set_that_depends_on_length_is_chosen_from_the_window(window: int) -> None:
    """Stock takes the long set once a text is longer than 32 tokens, the short one until then."""
    model, ids = tiny_model("phi3-longrope", torch.float32), random_ids(window)
    stock = stock_logits(model, ids)
    ours = our_logits(model, LMInfinite(window, 4, window), ids, 7)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [Full(), LMInfinite(50, 4, 50)], ids=["full", "lm-infinite"])
def test_a_text_known_to_be_short_has_the_short_set_in_any_window(method: Method) -> None:
    model, ids = tiny_model("phi3-longrope", torch.float32), random_ids(20)
    ours = our_logits(model, method, ids, 7, longest=20)
    torch.testing.assert_close(ours, stock_logits(model, ids), rtol=0, atol=1e-4)


def test_an_earlier_long_text_leaves_the_frequencies_alone() -> None:
    """Stock overwrites its frequencies in place whenever a text is long."""
    model, ids = tiny_model("phi3-longrope", torch.float32), random_ids(20)
    stock = stock_logits(model, ids)
    stock_logits(model, random_ids(COUNT))
    ours = our_logits(model, LMInfinite(20, 4, 20), ids, 7)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)
