"""Likelihood and certainty of questions behind texts, against the formulas written out."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model

from lmi_cli.engine import MEASURES
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.foresight import Tail, foresight
from lmi_cli.engine.likelihood import mean_log_likelihood
from lmi_cli.errors import ModelError
from lmi_cli.methods import LMInfinite
from lmi_cli.methods.full import Full
from lmi_cli.models.causal_lm import CausalLM

TEXTS = [random_ids(count, seed=count) for count in (5, 17, 1, 9)]
TAILS = [
    Tail(random_ids(9, seed=90), 0, 9),
    Tail(random_ids(7, seed=91), 2, 5),
    Tail(random_ids(1, seed=92), 0, 1),
]


@pytest.fixture(scope="module")
def lm() -> Iterator[CausalLM]:
    model = tiny_model("llama", torch.float64)
    with CausalLM(model) as lm, precisely(model):
        yield lm


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    """Both measures of every question behind every text, by the stock model."""
    model = tiny_model("llama", torch.float64)
    found = np.empty((2, len(TEXTS), len(TAILS)))
    for row, text in enumerate(TEXTS):
        for column, tail in enumerate(TAILS):
            ids = torch.from_numpy(np.concatenate([text, tail.ids]).astype(np.int64))
            with torch.no_grad(), precisely(model):
                log = model(ids[None]).logits[0].double().log_softmax(-1)
            asked = range(len(text) + tail.first, len(text) + tail.stop)
            found[0, row, column] = np.mean([float(log[at - 1, ids[at]]) for at in asked])
            entropy = [-float((log[at - 1].exp() * log[at - 1]).sum()) for at in asked]
            found[1, row, column] = -np.mean(entropy)
    return found


@pytest.mark.parametrize("chunk", [3, 16, 64])
@pytest.mark.parametrize("method", [Full(), LMInfinite(128, 4, 128)])
def test_both_are_means_over_the_question_alone(
    lm: CausalLM, wanted: np.ndarray, chunk: int, method: Full | LMInfinite
) -> None:
    assert MEASURES == ("likelihood", "certainty")
    found = foresight(Engine(lm, method, chunk), TEXTS, TAILS)
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0)
    assert (found < 0).all()


def test_a_text_alone_gets_what_it_gets_among_others(lm: CausalLM) -> None:
    engine = Engine(lm, Full(), 32)
    together = foresight(engine, TEXTS, TAILS)
    for number, text in enumerate(TEXTS):
        alone = foresight(engine, [text], TAILS[::-1])[:, 0, ::-1]
        np.testing.assert_allclose(alone, together[:, number], atol=1e-9, rtol=0)
    same = mean_log_likelihood(engine, TEXTS[0], TAILS[0].ids)
    assert together[0, 0, 0] == pytest.approx(same, abs=1e-6)


def test_a_model_that_gives_no_numbers_is_an_error(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = lm.model.lm_head
    broken = torch.nn.Parameter(head.weight.detach().index_fill(0, torch.tensor([4]), torch.nan))
    monkeypatch.setattr(head, "weight", broken)
    with pytest.raises(ModelError, match="non-finite"):
        foresight(Engine(lm, Full(), 32), TEXTS, TAILS)
