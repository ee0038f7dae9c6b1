"""Losses of tokens, whoever computes them, against those of all logits."""

import math

import pytest
import torch
from tiny_models import random_ids, tiny_model
from torch import Tensor
from torch.nn import functional

from lmi_cli.engine.engine import Engine
from lmi_cli.engine.language_model import LanguageModel, Losses
from lmi_cli.methods import Full
from lmi_cli.models import losses
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.plain_shape import plain_shape

LARGE = {"hidden_size": 96, "head_dim": 64, "intermediate_size": 160, "num_attention_heads": 6}


def of_logits(logits: Tensor, targets: Tensor) -> Losses:
    log = logits.double().log_softmax(-1)
    entropy = -(log.exp() * log.clamp(min=torch.finfo(log.dtype).min)).sum(-1)
    return Losses(functional.nll_loss(log, targets, reduction="none"), entropy)


def check(lm: LanguageModel, limit: float) -> None:
    ids = random_ids(20)
    engine = Engine(lm, Full())
    hidden = engine.forward(engine.start(), ids)
    targets = torch.from_numpy(ids[::-1].copy()).long()
    found, expected = (
        lm.losses(hidden, targets, with_entropy=True),
        of_logits(lm.logits(hidden), targets),
    )
    for each, wanted in zip(found, expected, strict=True):
        assert each is not None and each.dtype == torch.promote_types(lm.dtype, torch.float32)
        torch.testing.assert_close(each.double(), wanted, rtol=0, atol=limit)
    assert lm.losses(hidden, targets).entropy is None


@pytest.mark.parametrize("width", [7, 2048])
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch(name: str, dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With families that scale and cap their logits."""
    monkeypatch.setattr(losses, "_WIDTH", width)
    limit = 1e-10 if dtype == torch.float64 else 1e-5
    model = tiny_model(name, dtype)
    with CausalLM(model) as lm:
        check(lm, limit)
    shape = plain_shape(model.config)
    if shape is not None:
        check(Decoder(shape, dict(model.state_dict())), limit)


@pytest.mark.usefixtures("c_library")
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_the_library_in_c(name: str) -> None:
    model = tiny_model(name, torch.bfloat16, **LARGE)
    shape = plain_shape(model.config)
    assert shape is not None
    decoder = Decoder(shape, dict(model.state_dict()))
    assert decoder.linear_by == "C"
    check(decoder, 1e-4)


def test_what_is_not_finite() -> None:
    logits = torch.randn(4, 30)
    logits[0, 10:20] = -math.inf  # all of a part
    logits[1, 25] = math.inf
    logits[2, 3] = math.nan
    targets = torch.tensor([12, 25, 4, 29])
    expected = of_logits(logits, targets)
    found = losses.losses_of(iter(logits.split(10, 1)), targets, with_entropy=True)
    torch.testing.assert_close(found.loss.double(), expected.loss, equal_nan=True)
    assert found.loss[0] == math.inf and found.entropy is not None
    assert found.entropy.isfinite().tolist() == [True, False, False, True]
    torch.testing.assert_close(
        found.entropy.double(), expected.entropy, rtol=0, atol=1e-5, equal_nan=True
    )
