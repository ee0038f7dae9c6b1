"""Scaled rotary frequencies: those of transformers where it has them, and when they are refused."""

import pytest
import torch
from tiny_models import our_logits, random_ids, stock_logits, tiny_model

from lmi_cli.errors import UsageError
from lmi_cli.methods import Circumstances, Full, MethodChoice, Parameter

COUNT = 200
TRAINED = 128


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_it_is_what_transformers_makes_of_such_a_configuration(kind: str, factor: int) -> None:
    """Up to the rounding of frequencies to float32, which is done in another order there."""
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": float(factor)}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = TRAINED
    plain, configured = tiny_model("llama"), tiny_model("llama", rope_parameters=rope)
    ids = random_ids(COUNT)
    found = our_logits(plain, Full(kind, factor), ids, 64)
    stock = stock_logits(configured, ids)
    torch.testing.assert_close(found, stock, rtol=0, atol=1e-4)
    assert (found - stock_logits(plain, ids)).abs().max() > 0.01


def test_dynamic_is_what_transformers_does_for_a_text_of_that_length() -> None:
    """With a factor of 1 there, frequencies are those for the length of the text alone."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 1.0}
    configured = tiny_model("llama", rope_parameters=rope, max_position_embeddings=COUNT // 2)
    ids = random_ids(COUNT)
    found = our_logits(tiny_model("llama"), Full("dynamic", 2), ids, 64)
    torch.testing.assert_close(found, stock_logits(configured, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "factor"), [(None, 4), (100, 1), (TRAINED, 1), (TRAINED + 1, 2), (1000, 8)]
)
def test_the_factor_follows_from_the_length(tokens: int | None, factor: int) -> None:
    around = Circumstances(TRAINED, 0, TRAINED, tokens)
    for kind in ("linear", "dynamic", "yarn"):
        method = Full.build({"rope_scaling": kind}, around)
        assert method == Full(kind, factor)
        assert (method.rope_change is None) == (factor == 1)
    assert Full.build({"rope_scaling": "truncated"}, around) == Full("truncated")
    assert Full.build({}, around) == Full()


@pytest.mark.parametrize(
    "given",
    [
        {"rope_factor": 2},
        {"rope_scaling": "truncated", "rope_factor": 2},
        {"rope_scaling": "linear", "rope_factor": 0},
        {"rope_scaling": "other"},
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Parameter]) -> None:
    with pytest.raises(UsageError):
        MethodChoice("full", given)
    with pytest.raises(UsageError):
        Full(**given)  # type: ignore[arg-type]
