"""The trained length of real models, from the fields of their published configurations.

Each configuration goes the way of a model's folder: config.json, then transformers' own class.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest
from transformers import AutoConfig

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.errors import ModelError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.facts import ModelFacts
from lmi_cli.models.known import KnownModel
from lmi_cli.models.placement import AUTOMATIC
from lmi_cli.models.trained_length import TrainedLength, trained_length, trained_length_of
from lmi_cli.tasks import plan
from lmi_cli.tasks.plan import MemoryChoice


class Real(NamedTuple):
    """A model: its trained length, and the default window of a stream that keeps its middle."""

    name: str
    family: str
    fields: dict[str, Any]
    tokens: int
    window: int
    original: int | None = None
    reach: int | None = None


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }


def _yarn(factor: float, original: int, name: str = "type") -> dict[str, Any]:
    return {"factor": factor, "original_max_position_embeddings": original, name: "yarn"}


def _most(length: int, **others: Any) -> dict[str, Any]:
    return {"max_position_embeddings": length, **others}


_LONGROPE = {"type": "longrope", "long_factor": [1.5] * 48, "short_factor": [1.1] * 48}
_DEEPSEEK = _yarn(40, 4096) | {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0}
_GEMMA_3 = {
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}

REAL = [
    Real("SmolLM2-135M-Instruct", "llama", _most(8192, rope_theta=100000), 8192, 2048),
    Real("LLaMA 7B", "llama", _most(2048, max_sequence_length=2048), 2048, 512),
    Real("Llama 2 7B", "llama", _most(4096, rope_scaling=None), 4096, 1024),
    Real("Llama 3 8B", "llama", _most(8192, rope_theta=500000.0), 8192, 2048),
    Real("Llama 3.1 8B", "llama", _most(131072, rope_scaling=_llama3(8.0)), 131072, 32768, 8192),
    Real("Llama 3.2 1B", "llama", _most(131072, rope_scaling=_llama3(32.0)), 131072, 32768, 8192,
         reach=None),
    Real("CodeLlama 7B", "llama", _most(16384, rope_theta=1000000), 16384, 4096),
    Real("Yi 34B 200K", "llama", _most(200000, rope_theta=10000000.0), 200000, 50000),
    Real("Vicuna 7B v1.5 16K", "llama", _most(4096, max_sequence_length=16384,
         rope_scaling={"factor": 4.0, "type": "linear"}), 16384, 4096),
    Real("DeepSeek Coder 6.7B", "llama", _most(16384, rope_theta=100000,
         rope_scaling={"factor": 4.0, "type": "linear"}), 16384, 4096),
    Real("Mistral 7B v0.1", "mistral", _most(32768, sliding_window=4096), 32768, 8192),
    Real("Mistral 7B Instruct v0.2", "mistral",
         _most(32768, rope_theta=1000000.0, sliding_window=None), 32768, 8192),
    Real("Mixtral 8x7B", "mixtral", _most(32768, rope_theta=1000000.0), 32768, 8192),
    Real("Ministral 3 8B", "ministral3",
         _most(262144, rope_parameters=_yarn(16.0, 16384, "rope_type") | {"rope_theta": 1e6}),
         262144, 65536, 16384),
    Real("Qwen2.5 7B Instruct", "qwen2", _most(32768, use_sliding_window=False), 32768, 8192),
    Real("Qwen2.5 7B Instruct, yarn added", "qwen2", _most(32768, rope_scaling=_yarn(4.0, 32768)),
         32768, 8192, 32768, 131072),
    Real("Qwen3 8B", "qwen3", _most(40960, rope_theta=1000000), 40960, 10240),
    Real("Qwen3 8B, yarn added", "qwen3",
         _most(40960, rope_scaling=_yarn(4.0, 32768, "rope_type")), 32768, 8192, 32768, 131072),
    Real("Qwen3-Next 80B A3B", "qwen3_next", _most(262144, rope_theta=10000000), 262144, 65536),
    Real("Gemma 2 2B", "gemma2", _most(8192, sliding_window=4096), 8192, 2048),
    Real("Gemma 3 270M", "gemma3_text", _most(32768, sliding_window=512), 32768, 8192),
    Real("Gemma 3 4B", "gemma3", {"text_config": _GEMMA_3}, 131072, 32768),
    Real("Phi-2", "phi", _most(2048, partial_rotary_factor=0.4), 2048, 512),
    Real("Phi-3 mini 4K", "phi3", _most(4096, original_max_position_embeddings=4096,
         rope_scaling=None, sliding_window=2047), 4096, 1024),
    Real("Phi-3 mini 128K", "phi3", _most(131072, original_max_position_embeddings=4096,
         hidden_size=3072, num_attention_heads=32, rope_scaling=_LONGROPE), 131072, 32768, 4096),
    Real("Pythia 160M", "gpt_neox", _most(2048, rotary_pct=0.25), 2048, 512),
    Real("GPT-J 6B", "gptj", {"n_positions": 2048, "rotary_dim": 64}, 2048, 512),
    Real("MPT 7B", "mpt", {"max_seq_len": 2048}, 2048, 512),
    Real("MPT 7B StoryWriter", "mpt", {"max_seq_len": 65536}, 65536, 16384),
    Real("BLOOM 560M", "bloom", {"n_layer": 24, "n_head": 16}, 2048, 512),
    Real("BLOOM 7B1", "bloom", {"n_layer": 30, "seq_length": 2048}, 2048, 512),
    Real("Falcon 7B", "falcon", {"alibi": False, "multi_query": True}, 2048, 512),
    Real("Falcon 11B", "falcon", _most(8192, new_decoder_architecture=True), 8192, 2048),
    Real("StableLM 3B 4E1T", "stablelm", _most(4096, partial_rotary_factor=0.25), 4096, 1024),
    Real("StarCoder2 3B", "starcoder2", _most(16384, sliding_window=4096), 16384, 4096),
    Real("Command R", "cohere", _most(8192, model_max_length=131072), 131072, 32768),
    Real("Granite 3.1 8B", "granite", _most(131072, rope_theta=10000000.0), 131072, 32768),
    Real("SmolLM3 3B", "smollm3", _most(65536, rope_theta=5000000.0), 65536, 16384),
    Real("OLMo 3 7B", "olmo3", _most(65536, rope_scaling=_yarn(8.0, 8192, "rope_type")),
         65536, 16384, 8192),
    Real("EXAONE 4.0 1.2B", "exaone4", _most(65536, rope_scaling=_llama3(16.0)),
         65536, 16384, 8192, reach=None),
    Real("gpt-oss 20B", "gpt_oss", _most(131072, initial_context_length=4096,
         rope_scaling=_yarn(32.0, 4096, "rope_type")), 131072, 32768, 4096),
    Real("DeepSeek V3", "deepseek_v3", _most(163840, rope_scaling=_DEEPSEEK),
         163840, 40960, 4096),
    Real("InternLM3 8B", "internlm3", _most(32768, rope_scaling={"rope_type": "dynamic",
         "factor": 6.0}), 32768, 8192, None, 196608),
    Real("Mamba 130M", "mamba", {"state_size": 16}, 2048, 512),
    Real("Mamba-2 130M", "mamba2", {"state_size": 128}, 2048, 512),
    Real("Falcon Mamba 7B", "falcon_mamba", {"state_size": 16}, 8192, 2048),
    Real("RWKV-4 169M", "rwkv", {"context_length": 1024}, 1024, 256),
    Real("RecurrentGemma 2B", "recurrent_gemma", {"attention_window_size": 2048}, 8192, 2048),
    Real("Jamba v0.1", "jamba", _most(262144), 262144, 65536),
    Real("Falcon-H1 0.5B", "falcon_h1", _most(16384), 16384, 4096),
]  # fmt: skip


def _known(tokens: int) -> KnownModel:
    """A model of this trained length."""
    facts = ModelFacts("llama", tokens, (None,), 2, 1, 4, 8, 16, "float32", 100)
    files = ModelFiles("x", Path(), "y", "folder")
    return KnownModel(files, facts, AUTOMATIC, AUTOMATIC.precision("float32"), None)


@pytest.mark.parametrize("real", REAL, ids=[real.name for real in REAL])
def test_a_published_configuration(real: Real, tmp_path: Path) -> None:
    written = {"model_type": real.family, **real.fields}
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = AutoConfig.from_pretrained(tmp_path, local_files_only=True)
    found = trained_length_of(config)
    assert (found.tokens, found.original, found.reach) == (real.tokens, real.original, real.reach)
    known = _known(found.tokens)
    assert plan._stream_window(known, MemoryChoice("memory")) == real.window
    # One that is read only for its index takes no more than it needs.
    indexed = plan.plan_long_text(known, MethodChoice()).method.local_window
    assert indexed == min(real.window, plan.INDEX_WINDOW)
    if "text_config" not in written:  # of which the defaults of the class are a part
        assert trained_length_of(written) == replace(found, source=ANY)


def test_lengths_that_no_configuration_states_name_their_source() -> None:
    said = {family: str(trained_length_of({"model_type": family})) for family in ("mamba", "bloom")}
    assert said["mamba"] == "2,048 tokens (by Gu and Dao 2023, arXiv 2312.00752)"
    assert "BigScience" in said["bloom"]
    # A longer one of a later model of the family is believed.
    assert trained_length({"model_type": "bloom", "seq_length": 4096}) == 4096


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (TrainedLength(8192), "8,192 tokens"),
        (TrainedLength(131072, 4096, "yarn"), "131,072 tokens (original context 4,096, yarn)"),
        (TrainedLength(16384, None, "linear"), "16,384 tokens (linear)"),
        (
            TrainedLength(32768, 32768, "yarn", 131072),
            "32,768 tokens (yarn to 131,072, without training)",
        ),
    ],
    ids=str,
)
def test_how_it_is_said(length: TrainedLength, text: str) -> None:
    assert str(length) == text


def test_scalings_by_kind_of_layer_and_marked_as_trained() -> None:
    kinds = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "compressed_attention": None,
        "full_attention": _yarn(4.0, 8192, "rope_type"),
    }
    assert trained_length_of(_most(32768, rope_parameters=kinds)) == TrainedLength(
        32768, 8192, "yarn"
    )
    trained = _yarn(16.0, 8192) | {"finetuned": True}
    assert trained_length(_most(32768, rope_scaling=trained)) == 131072


@pytest.mark.parametrize("length", [None, 0, -1, "4096", True, 4096.0, 2**40], ids=str)
def test_a_configuration_without_a_length_is_refused(length: object) -> None:
    with pytest.raises(ModelError, match="llama: the configuration gives no trained length"):
        trained_length({"model_type": "llama", "max_position_embeddings": length})
