"""Descriptions of architectures whose layers keep a state, in all layers or in most.

Imports the standard library only.
"""

from lmi_cli.checkpoints.gguf import GgufHeader
from lmi_cli.checkpoints.gguf_changes import (
    Change,
    by_key_head,
    columns_by_key_head,
    decay_by_key_head,
    filters,
    filters_by_key_head,
    less_one,
    log_of_decay,
    one_row,
    same,
    values_by_key_head,
)
from lmi_cli.checkpoints.gguf_description import (
    ANY_HEADS,
    ATTENTION,
    MLP,
    RMS,
    ROUTED,
    SHARED,
    SMALL_EXPERTS,
    Architecture,
    Made,
    always,
    has,
    heads_of,
    is_set,
    layer_count,
)


def _kinds(header: GgufHeader) -> list[str]:
    interval = int(header.values.get(f"{header.architecture}.full_attention_interval", 4))
    return [
        "linear_attention" if (at + 1) % max(1, interval) else "full_attention"
        for at in range(layer_count(header))
    ]


_QWEN_35 = ANY_HEADS | {
    "num_hidden_layers": layer_count,
    "layer_types": _kinds,
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_value_head_dim": lambda header: (
        heads_of(header).linear_width // max(1, heads_of(header).linear_values)
    ),
}
_QWEN_35_NAMES = ATTENTION | {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_QWEN_35_MADE = {
    "linear_attn.A_log": Made(("ssm_a",), decay_by_key_head),
    "linear_attn.dt_bias": Made(("ssm_dt.bias",), by_key_head),
}
_QWEN_35_CHANGES: dict[str, Change] = {
    "attn_norm": less_one,
    "post_attention_norm": less_one,
    "attn_q_norm": less_one,
    "attn_k_norm": less_one,
    "output_norm": less_one,
    "attn_qkv": values_by_key_head,
    "attn_gate": by_key_head,
    "ssm_alpha": by_key_head,
    "ssm_beta": by_key_head,
    "ssm_conv1d": filters_by_key_head,
    "ssm_out": columns_by_key_head,
}

LINEAR: dict[str, tuple[Architecture, ...]] = {
    "lfm2": (
        Architecture(
            "lfm2",
            RMS
            | {
                "norm_eps": "attention.layer_norm_rms_epsilon",
                "conv_L_cache": "shortconv.l_cache",
                "conv_bias": has("shortconv.in_proj.bias"),
                # What the file gives is not adjusted again.
                "block_auto_adjust_ff_dim": always(False),
            },
            {
                "attn_norm": "operator_norm",
                "ffn_norm": "ffn_norm",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_output": "self_attn.out_proj",
                "attn_q_norm": "self_attn.q_layernorm",
                "attn_k_norm": "self_attn.k_layernorm",
                "ffn_gate": "feed_forward.w1",
                "ffn_up": "feed_forward.w3",
                "ffn_down": "feed_forward.w2",
                "shortconv.conv": "conv.conv",
                "shortconv.in_proj": "conv.in_proj",
                "shortconv.out_proj": "conv.out_proj",
            },
            {
                "token_embd": "model.embed_tokens",
                "token_embd_norm": "model.embedding_norm",
                "output": "lm_head",
            },
            changes={"shortconv.conv": filters},
        ),
    ),
    "mamba": tuple(
        Architecture(
            family,
            {
                "num_hidden_layers": "block_count",
                "hidden_size": "embedding_length",
                "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
                "conv_kernel": "ssm.conv_kernel",
                "state_size": "ssm.state_size",
                "time_step_rank": "ssm.time_step_rank",
                "intermediate_size": "ssm.inner_size",
            },
            {
                "attn_norm": "norm",
                "ssm_in": "mixer.in_proj",
                "ssm_conv1d": "mixer.conv1d",
                "ssm_x": "mixer.x_proj",
                "ssm_dt": "mixer.dt_proj",
                "ssm_out": "mixer.out_proj",
            },
            {
                "token_embd": "backbone.embeddings",
                "output_norm": "backbone.norm_f",
                "output": "lm_head",
            },
            made={
                "mixer.A_log": Made(("ssm_a",), log_of_decay),
                "mixer.D": Made(("ssm_d",), same),
            },
            changes={"ssm_conv1d.weight": filters},
            turns=False,
            layer="backbone.layers.{}.",
            applies=applies,
        )
        for family, applies in (
            ("falcon_mamba", is_set("ssm.dt_b_c_rms")),
            ("mamba", lambda header: True),
        )
    ),
    "qwen35": (
        Architecture(
            "qwen3_5_text",
            _QWEN_35,
            _QWEN_35_NAMES | MLP,
            made=_QWEN_35_MADE,
            changes=_QWEN_35_CHANGES,
            turns_parts=True,
        ),
    ),
    "qwen35moe": (
        Architecture(
            "qwen3_5_moe_text",
            {name: key for name, key in _QWEN_35.items() if name != "intermediate_size"}
            | SMALL_EXPERTS
            | {"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
            _QWEN_35_NAMES | SHARED,
            made=_QWEN_35_MADE
            | ROUTED
            | {"mlp.shared_expert_gate.weight": Made(("ffn_gate_inp_shexp.weight",), one_row)},
            changes=_QWEN_35_CHANGES,
            turns_parts=True,
        ),
    ),
}
"""By architecture; of several, the first that applies."""
