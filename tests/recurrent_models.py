"""Tiny random models with recurrent layers, in memory and as folders."""

import json
from pathlib import Path
from typing import Any

import torch
from chat_model import SPECIAL, TEMPLATE, TRAINED_LENGTH, build_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 64

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
_MAMBA_2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_n_groups": 2,
}
_DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
}
_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_CONVOLUTIONS = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
_QWEN = _DELTA | {
    "num_hidden_layers": 3,
    "layer_types": _MIXED,
    "linear_num_value_heads": 4,
    "head_dim": 8,
}

PURE = ("falcon_mamba", "mamba", "mamba2", "rwkv")
HYBRID: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA_2 | {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "falcon_h1": _MAMBA_2 | {"mamba_d_ssm": 64},
    "granitemoehybrid": _MAMBA_2
    | {
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 4,
        "shared_intermediate_size": 16,
        "position_embedding_type": "rope",
    },
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "num_experts": 2,
    },
    "lfm2": _CONVOLUTIONS | {"block_multiple_of": 8},
    "lfm2_moe": _CONVOLUTIONS | _EXPERTS | {"num_dense_layers": 1, "tie_embedding": False},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "moe", "mamba"],
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 8,
        "head_dim": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo_hybrid": _DELTA
    | {"num_hidden_layers": 3, "layer_types": _MIXED, "linear_num_value_heads": 2},
    "qwen3_5_moe_text": _QWEN | _EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_5_text": _QWEN,
    "qwen3_next": _QWEN | _EXPERTS | {"shared_expert_intermediate_size": 16},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_ngroups": 2,
        "chunk_size": 8,
        "use_mem_rope": True,
        "num_key_value_heads": 4,
    },
}
_CHANGES: dict[str, dict[str, Any]] = {
    "falcon_mamba": {"state_size": 4},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "rwkv": {"context_length": 128, "rescale_every": 1},
    **{name: _ATTENTION | changes for name, changes in HYBRID.items()},
}
FAMILIES = tuple(sorted(_CHANGES))


def recurrent_model(
    name: str, dtype: torch.dtype = torch.float64, **changes: Any
) -> PreTrainedModel:
    """A random model by its family, with weights large enough for its state to matter."""
    values = _COMMON | _CHANGES[name] | changes
    if name in PURE:
        del values["max_position_embeddings"]
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(name, **values),
        attn_implementation="eager",
        experts_implementation="eager",
    )
    generator = torch.Generator().manual_seed(0)
    for label, parameter in model.named_parameters():
        if parameter.dim() == 2 and "A_log" not in label:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 1.2 * noise / parameter.shape[-1] ** 0.5
    return model.to(dtype).eval()


def save_recurrent_model(folder: Path, name: str = "mamba", **changes: Any) -> Path:
    """Write a model folder with the tokenizer and the template of the tests' chat model."""
    folder.mkdir(parents=True)
    backend = build_tokenizer()
    backend.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2]}
    names["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    sizes = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": TRAINED_LENGTH}
    ends = {"eos_token_id": backend.token_to_id(SPECIAL[2])}
    model = recurrent_model(name, torch.float32, **sizes | ends | changes)
    model.save_pretrained(folder)
    return folder
