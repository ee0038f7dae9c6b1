"""The self-check lets right configurations through and stops wrong ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, LlamaConfig, PretrainedConfig

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import Rotary
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.errors import ModelError
from lmi_cli.models import causal_lm, families, selfcheck
from lmi_cli.models.families import FAMILIES

SPECIAL_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def config(**changes: object) -> PretrainedConfig:
    return LlamaConfig(num_hidden_layers=4, num_key_value_heads=8, **SPECIAL_IDS, **changes)


# Configurations that transformers' defaults do not make, of families that are of several kinds.
KINDS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "falcon-alibi": {"alibi": True, "multi_query": False, "parallel_attn": False},
    "falcon-new": {"new_decoder_architecture": True, "num_kv_heads": 8},
    "bloom-heads": {"n_head": 14, "hidden_size": 14 * 16},
    "mpt-heads": {"n_heads": 14, "d_model": 14 * 16},
    "ministral": {"head_dim": 128},
    "mistral": {"sliding_window": 4096},
    "phi3": {"sliding_window": 2047},
}


def config_of(name: str) -> PretrainedConfig:
    kind = CONFIG_MAPPING[name.partition("-")[0]]
    return kind(**SPECIAL_IDS, **KINDS.get(name, {}))


@pytest.mark.parametrize("name", sorted({*FAMILIES, *KINDS}))
def test_every_family_in_the_table_passes(name: str) -> None:
    differences = selfcheck.differences(config_of(name))
    assert max(differences) < selfcheck.TOLERANCE / 10


def _fewer_pairs(layer: LayerSpec) -> LayerSpec:
    rotary = layer.rotary
    return replace(layer, rotary=rotary and replace(rotary, inv_freq=rotary.inv_freq[:-1]))


def _other_pairs(layer: LayerSpec) -> LayerSpec:
    rotary = layer.rotary
    return replace(layer, rotary=rotary and replace(rotary, interleaved=not rotary.interleaved))


def _other_window(layer: LayerSpec) -> LayerSpec:
    window = layer.native_window
    return replace(layer, native_window=window and window + 1)


def _other_order(layer: LayerSpec) -> LayerSpec:
    return replace(layer, slopes=layer.slopes and layer.slopes[::-1])


def _larger_slopes(layer: LayerSpec) -> LayerSpec:
    return replace(layer, slopes=layer.slopes and tuple(1.01 * each for each in layer.slopes))


def _later_growth(layer: LayerSpec) -> LayerSpec:
    return replace(layer, growth=layer.growth and replace(layer.growth, ahead=0))


WRONG_LAYERS = {
    "pairs": (
        _other_pairs,
        ("llama", "cohere", "gptj", "gpt_neox", "falcon", "gpt_oss", "llama4_text"),
    ),
    "rotary share": (_fewer_pairs, ("llama", "gptj", "gpt_neox", "phi", "stablelm", "glm4")),
    "window": (
        _other_window,
        ("mistral", "gemma3_text", "gpt_oss", "olmo3", "phi3", "exaone4", "llama4_text"),
    ),
    "no window": (
        lambda layer: replace(layer, native_window=None),
        ("mistral", "gemma2", "gpt_oss", "ministral"),
    ),
    "slopes": (_larger_slopes, ("bloom", "bloom-heads", "mpt", "mpt-heads", "falcon-alibi")),
    "order of slopes": (_other_order, ("bloom", "mpt-heads", "falcon-alibi")),
    "no slopes": (lambda layer: replace(layer, slopes=None), ("bloom", "mpt", "falcon-alibi")),
    "no growth": (lambda layer: replace(layer, growth=None), ("llama4_text", "ministral3")),
    "later growth": (_later_growth, ("llama4_text",)),
    "sliding, not chunked": (lambda layer: replace(layer, chunked=False), ("llama4_text",)),
    "one set of frequencies": (
        lambda layer: replace(layer, rotary=layer.rotary and Rotary(torch.ones(128))),
        ("gemma3_text",),
    ),
}


def changes(table: dict[str, tuple[Any, tuple[str, ...]]]) -> list[Any]:
    """Each change of a table with each of its models."""
    return [
        pytest.param(change, name, id=f"{what}-{name}")
        for what, (change, names) in table.items()
        for name in names
    ]


@pytest.mark.parametrize(("change", "name"), changes(WRONG_LAYERS))
def test_a_wrong_layer_is_refused(
    change: Callable[[LayerSpec], LayerSpec], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = families.layer_specs
    monkeypatch.setattr(
        causal_lm, "layer_specs", lambda *given: [change(layer) for layer in right(*given)]
    )
    with pytest.raises(ModelError, match=r"self-check failed, logits differ by \d"):
        selfcheck.check(config_of(name))


@pytest.mark.parametrize("name", ["smollm3", "cohere2", "exaone4", "llama4_text"])
def test_a_wrong_choice_of_rotated_layers_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(FAMILIES[name], has_rotary=lambda *_: True)
    monkeypatch.setitem(families.FAMILIES, name, row)
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(config_of(name))


WRONG_SCORES = {
    "scale": (lambda qkv: qkv._replace(scale=1.01 * qkv.scale), ("llama", "mpt", "granite")),
    "no sinks": (lambda qkv: qkv._replace(sinks=None), ("gpt_oss",)),
    "no cap": (lambda qkv: qkv._replace(softcap=None), ("gemma2",)),
}


@pytest.mark.parametrize(("change", "name"), changes(WRONG_SCORES))
def test_wrong_scores_are_refused(
    change: Callable[[QKV], QKV], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ForwardPass.attend
    monkeypatch.setattr(
        ForwardPass, "attend", lambda self, layer, qkv: right(self, layer, change(qkv))
    )
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(config_of(name))


def test_a_layer_of_each_kind_is_among_the_small_ones() -> None:
    """Also where kinds are told by more than one list."""
    config = config_of("gemma3_text")
    small = selfcheck.shrink(config, FAMILIES["gemma3_text"])
    assert small.layer_types == ["sliding_attention", "full_attention"]
    config = CONFIG_MAPPING["exaone4"](layer_types=None, num_hidden_layers=9)
    small = selfcheck.shrink(config, FAMILIES["exaone4"])
    assert sorted(small.layer_types) == ["full_attention", "sliding_attention"]


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
    monkeypatch.setattr(selfcheck, "differences", lambda *_: found)
    with pytest.raises(ModelError, match="self-check failed"):
        selfcheck.check(config())
