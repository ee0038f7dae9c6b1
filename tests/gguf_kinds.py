"""A tiny model of every architecture of GGUF files, with the keys of llama.cpp's converter."""

from typing import Any

import torch
from gguf_models import Kind, every_other, halves, interleaved, plus_one, ungrouped
from torch import Tensor

LAYER_NORM = "attention.layer_norm_epsilon"
WIDE: dict[str, Any] = {"head_dim": 16}
PERMUTED = {
    "q_proj": interleaved("num_attention_heads"),
    "k_proj": interleaved("num_key_value_heads"),
}
EXPERTS = {"expert_count": 4, "expert_used_count": 2}
SMALL_EXPERTS = EXPERTS | {"expert_feed_forward_length": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SMALL = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROUTED = {
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
GRANITE_KEYS = {
    "embedding_scale": 3.0,
    "attention.scale": 0.25,
    "residual_scale": 0.5,
    "logit_scale": 2.0,
}
WINDOW = {"attention.sliding_window": 12}
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
HALF = {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}
QUARTER = {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.25}}
BLOOM_HEADS = ungrouped("num_attention_heads")

QWEN_35: dict[str, Any] = WIDE | {
    "num_hidden_layers": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "rope_parameters": PLAIN
    | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
}
QWEN_35_KEYS = {
    "rope.dimension_count": 8,
    "rope.dimension_sections": [2, 1, 1, 0],
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 6,
    "ssm.inner_size": 48,
}
QWEN_35_NAMES = {
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
}


def tiled(weight: Tensor, sizes: dict[str, Any]) -> Tensor:
    """Value heads of linear attention, one of each key head after another."""
    grouped = weight.reshape(2, 3, -1, *weight.shape[1:])
    return grouped.swapaxes(0, 1).reshape(weight.shape)


def tiled_values(weight: Tensor, sizes: dict[str, Any]) -> Tensor:
    """Likewise the last 48 rows, without a dimension of one."""
    rows = weight.flatten(1)
    return torch.cat([rows[:-48], tiled(rows[-48:], sizes)])


QWEN_35_WRITE = {
    "linear_attn.norm": lambda weight, sizes: weight,
    "norm": plus_one,
    "A_log": lambda weight, sizes: -tiled(weight, sizes).exp(),
    "dt_bias": tiled,
    "conv1d": tiled_values,
    "in_proj_qkv": tiled_values,
    "in_proj": tiled,
    "out_proj": lambda weight, sizes: tiled(weight.T, sizes).T,
}

MAMBA = {"state_size": 4, "time_step_rank": 2, "intermediate_size": 64}
MAMBA_KEYS = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": 4,
    "ssm.time_step_rank": 2,
    "ssm.inner_size": 64,
}
MAMBA_MADE = {"mixer.A_log": "ssm_a", "mixer.D": "ssm_d"}
MAMBA_WRITE = {
    "A_log": lambda weight, sizes: -weight.exp(),
    "conv1d.weight": lambda weight, sizes: weight[:, 0],
}

KINDS = {
    "arcee": Kind("arcee", "arcee", WIDE, write=PERMUTED),
    "bloom": Kind(
        "bloom",
        "bloom",
        {"n_layer": 2, "n_head": 4, "num_key_value_heads": 4, "intermediate_size": 128},
        write={"query_key_value": BLOOM_HEADS},
        epsilon=LAYER_NORM,
    ),
    "command-r": Kind(
        "command-r",
        "cohere",
        {"logit_scale": 0.5},
        {"logit_scale": 0.5},
        epsilon=LAYER_NORM,
    ),
    "cohere2": Kind(
        "cohere2",
        "cohere2",
        {"head_dim": 8, "logit_scale": 0.5, "sliding_window": 12, "num_hidden_layers": 4},
        {"logit_scale": 0.5} | WINDOW,
        epsilon=LAYER_NORM,
    ),
    "ernie4_5": Kind("ernie4_5", "ernie4_5", WIDE),
    "falcon 7b": Kind(
        "falcon",
        "falcon",
        {"multi_query": True, "num_kv_heads": 1, "num_key_value_heads": 1, "ffn_hidden_size": 48},
        write={"query_key_value": ungrouped("num_key_value_heads")},
        epsilon=LAYER_NORM,
    ),
    "falcon 40b": Kind(
        "falcon",
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 48},
        write={"query_key_value": ungrouped("num_key_value_heads")},
        epsilon=LAYER_NORM,
    ),
    "falcon 11b": Kind(
        "falcon",
        "falcon",
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "ffn_hidden_size": 48,
            "num_ln_in_parallel_attn": 1,
        },
        write={"query_key_value": ungrouped("num_key_value_heads")},
        epsilon=LAYER_NORM,
    ),
    "gemma": Kind("gemma", "gemma", WIDE, write={"norm": plus_one}),
    "gemma2": Kind(
        "gemma2",
        "gemma2",
        WIDE | {"query_pre_attn_scalar": 16, "sliding_window": 12},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0} | WINDOW,
        write={"norm": plus_one},
    ),
    "gemma3": Kind(
        "gemma3",
        "gemma3_text",
        WIDE | {"query_pre_attn_scalar": 16, "sliding_window": 12, "num_hidden_layers": 6},
        WINDOW | {"rope.freq_base": 1e6},
        write={"norm": plus_one},
    ),
    "glm4": Kind(
        "glm4",
        "glm4",
        WIDE | {"attention_bias": True} | QUARTER,
        {"rope.dimension_count": 4},
        rename={
            "post_self_attn_layernorm.weight": "post_attention_norm.weight",
            "post_mlp_layernorm.weight": "post_ffw_norm.weight",
        },
    ),
    "gpt-oss": Kind(
        "gpt-oss",
        "gpt_oss",
        WIDE
        | LOCAL
        | {
            "sliding_window": 12,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
                "rope_theta": 10_000.0,
            },
        },
        EXPERTS
        | WINDOW
        | {
            "expert_feed_forward_length": 48,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
        rename={
            "self_attn.sinks": "attn_sinks.weight",
            "mlp.router.weight": "ffn_gate_inp.weight",
            "mlp.router.bias": "ffn_gate_inp.bias",
            "mlp.experts.down_proj": "ffn_down_exps.weight",
            "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
            "post_attention_layernorm.weight": "post_attention_norm.weight",
        },
        write={
            "gate_up_proj_bias": every_other("bias"),
            "gate_up_proj": every_other("weight"),
            "down_proj_bias": lambda weight, sizes: weight,
            "down_proj": lambda weight, sizes: weight.transpose(1, 2),
        },
    ),
    "gptneox": Kind(
        "gptneox",
        "gpt_neox",
        QUARTER | {"num_key_value_heads": 4, "use_parallel_residual": False},
        {"rope.dimension_count": 2, "use_parallel_residual": False},
        write={"query_key_value": BLOOM_HEADS},
        epsilon=LAYER_NORM,
    ),
    "granite": Kind("granite", "granite", GRANITE, GRANITE_KEYS, write=PERMUTED),
    "granitemoe": Kind(
        "granitemoe",
        "granitemoe",
        GRANITE | LOCAL,
        GRANITE_KEYS | EXPERTS,
        {
            "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
            "block_sparse_moe.experts.down_proj": "ffn_down_exps.weight",
        },
        PERMUTED | {"gate_up_proj": halves},
    ),
    "lfm2": Kind(
        "lfm2",
        "lfm2",
        {
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": PLAIN,
        },
        {"attention.head_count_kv": [0, 2], "shortconv.l_cache": 3},
        write={"conv.conv": lambda weight, sizes: weight[:, 0]},
    ),
    "llama": Kind(
        "llama",
        "llama",
        WIDE | {"attention_bias": True, "tie_word_embeddings": False},
        write=PERMUTED,
    ),
    "mixtral": Kind(
        "llama", "mixtral", LOCAL, EXPERTS, ROUTED, PERMUTED | {"gate_up_proj": halves}
    ),
    "mamba": Kind("mamba", "mamba", MAMBA, MAMBA_KEYS, MAMBA_MADE, MAMBA_WRITE),
    "falcon mamba": Kind(
        "mamba",
        "falcon_mamba",
        MAMBA,
        MAMBA_KEYS | {"ssm.dt_b_c_rms": True},
        MAMBA_MADE,
        MAMBA_WRITE,
    ),
    "minimax-m2": Kind(
        "minimax-m2",
        "minimax_m2",
        WIDE | LOCAL | HALF,
        EXPERTS
        | {"expert_feed_forward_length": 48, "rope.dimension_count": 8, "expert_gating_func": 2},
        ROUTED | {"mlp.e_score_correction_bias": "exp_probs_b.bias"},
        {"gate_up_proj": halves},
    ),
    "mpt": Kind(
        "mpt",
        "mpt",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "intermediate_size": 128,
            "num_key_value_heads": 4,
            "max_seq_len": 64,
        },
        {"attention.max_alibi_bias": 8.0},
        epsilon=LAYER_NORM,
    ),
    "nemotron": Kind(
        "nemotron",
        "nemotron",
        {"head_dim": 8} | HALF,
        {"rope.dimension_count": 4},
        write={"norm.weight": plus_one},
        epsilon=LAYER_NORM,
    ),
    "olmo": Kind(
        "olmo",
        "olmo",
        {"clip_qkv": 2.0},
        {"attention.clamp_kqv": 2.0},
        write=PERMUTED,
        epsilon=LAYER_NORM,
    ),
    "olmo2": Kind("olmo2", "olmo2"),
    "phi2": Kind("phi2", "phi", QUARTER, {"rope.dimension_count": 2}, epsilon=LAYER_NORM),
    "phi3": Kind("phi3", "phi3", {"sliding_window": 12}, WINDOW),
    "qwen2": Kind("qwen2", "qwen2"),
    "qwen2moe": Kind(
        "qwen2moe",
        "qwen2_moe",
        SMALL | {"shared_expert_intermediate_size": 40},
        SMALL_EXPERTS | {"expert_shared_feed_forward_length": 40},
        ROUTED,
        {"gate_up_proj": halves, "shared_expert_gate": lambda weight, sizes: weight[0]},
    ),
    "qwen3": Kind("qwen3", "qwen3", WIDE),
    "qwen3moe": Kind(
        "qwen3moe",
        "qwen3_moe",
        WIDE | SMALL | {"num_local_experts": 4, "norm_topk_prob": True},
        SMALL_EXPERTS,
        ROUTED,
        {"gate_up_proj": halves},
    ),
    "smollm3": Kind("smollm3", "smollm3", {"num_hidden_layers": 4}, write=PERMUTED),
    "stablelm": Kind(
        "stablelm",
        "stablelm",
        QUARTER | {"use_qkv_bias": True},
        {"rope.dimension_count": 2},
        epsilon=LAYER_NORM,
    ),
    "stablelm 2": Kind(
        "stablelm",
        "stablelm",
        QUARTER | {"use_parallel_residual": True, "qk_layernorm": True},
        {"rope.dimension_count": 2},
        epsilon=LAYER_NORM,
    ),
    "starcoder2": Kind("starcoder2", "starcoder2", epsilon=LAYER_NORM),
    "qwen35": Kind(
        "qwen35",
        "qwen3_5_text",
        QWEN_35,
        QWEN_35_KEYS,
        QWEN_35_NAMES,
        QWEN_35_WRITE,
    ),
    "qwen35moe": Kind(
        "qwen35moe",
        "qwen3_5_moe_text",
        QWEN_35 | SMALL | {"shared_expert_intermediate_size": 40},
        QWEN_35_KEYS | SMALL_EXPERTS | {"expert_shared_feed_forward_length": 40},
        QWEN_35_NAMES | ROUTED,
        {"gate_up_proj": halves, "shared_expert_gate": lambda weight, sizes: weight[0]}
        | QWEN_35_WRITE,
    ),
}
