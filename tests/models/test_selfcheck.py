"""The self-check lets right configurations through and stops wrong ones."""

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig, PretrainedConfig

from lmi_cli.errors import ModelError
from lmi_cli.models import families, selfcheck
from lmi_cli.models.families import FAMILIES, Family

SPECIAL_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def config(**changes: object) -> PretrainedConfig:
    return LlamaConfig(num_hidden_layers=4, num_key_value_heads=8, **SPECIAL_IDS, **changes)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_in_the_table_passes(name: str) -> None:
    differences = selfcheck.differences(CONFIG_MAPPING[name](**SPECIAL_IDS))
    assert max(differences) < selfcheck.TOLERANCE / 10


def test_a_wrong_rotary_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "llama", Family(interleaved=True))
    with pytest.raises(ModelError, match=r"llama: self-check failed, logits differ by \d"):
        selfcheck.check(config())


def test_a_wrong_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "native_window", lambda *_: None)
    mistral = CONFIG_MAPPING["mistral"](sliding_window=4096, **SPECIAL_IDS)
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(mistral)


def test_a_wrong_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the window the sinks never show: only the formula beyond it can tell."""
    wrong = selfcheck.LMInfinite(window=9, sinks=2, ceiling=13)
    logits = selfcheck._logits
    monkeypatch.setattr(
        selfcheck,
        "_logits",
        lambda lm, method, ids: logits(lm, wrong if method.window == 9 else method, ids),
    )
    stock, formula = selfcheck.differences(config())
    assert stock < selfcheck.TOLERANCE < formula


def test_a_configuration_that_cannot_be_built_is_a_model_error() -> None:
    broken = config()
    broken.hidden_act = "no such function"
    with pytest.raises(ModelError, match="llama: a small model of this configuration"):
        selfcheck.check(broken)


@pytest.mark.parametrize("found", [(float("nan"), 0.0), (0.0, float("nan"))])
def test_nan_differences_do_not_pass(
    monkeypatch: pytest.MonkeyPatch, found: tuple[float, float]
) -> None:
    monkeypatch.setattr(selfcheck, "differences", lambda _: found)
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(config())
