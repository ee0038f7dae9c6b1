"""Descriptions of architectures with experts or layers of their own.

Imports the standard library only.
"""

from typing import Any

from lmi_cli.checkpoints.gguf import GgufHeader
from lmi_cli.checkpoints.gguf_changes import (
    alternating,
    alternating_columns,
    grouped,
    one_row,
    same,
    transposed,
)
from lmi_cli.checkpoints.gguf_description import (
    ANY_HEADS,
    ATTENTION,
    BEFORE,
    BLOOM_MLP,
    GRANITE,
    HALVES,
    LAYER_NORM,
    LLAMA,
    LOCAL_EXPERTS,
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
    routed,
)


def _expansion(header: GgufHeader) -> int:
    inner, outer = (
        header.values.get(f"mpt.{name}_length", 1) for name in ("feed_forward", "embedding")
    )
    return int(inner) // max(1, int(outer))


def _mpt_attention(header: GgufHeader) -> dict[str, Any]:
    values = header.values
    return {
        "alibi": True,
        "alibi_bias_max": int(values.get("mpt.attention.max_alibi_bias", 8)),
        "clip_qkv": values.get("mpt.attention.clamp_kqv"),
    }


OTHER: dict[str, tuple[Architecture, ...]] = {
    "bloom": (
        Architecture(
            "bloom",
            {
                "seq_length": "context_length",
                "n_layer": "block_count",
                "hidden_size": "embedding_length",
                "n_head": "attention.head_count",
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
            },
            BEFORE
            | BLOOM_MLP
            | {
                "attn_qkv": "self_attention.query_key_value",
                "attn_output": "self_attention.dense",
            },
            {
                "token_embd": "transformer.word_embeddings",
                "token_embd_norm": "transformer.word_embeddings_layernorm",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            changes={"attn_qkv": grouped},
            turns=False,
            layer="transformer.h.{}.",
        ),
    ),
    "falcon": tuple(
        Architecture(
            "falcon",
            {
                "max_position_embeddings": "context_length",
                "num_hidden_layers": "block_count",
                "hidden_size": "embedding_length",
                "ffn_hidden_size": "feed_forward_length",
                "num_attention_heads": "attention.head_count",
                "num_kv_heads": lambda header: heads_of(header).keys,
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
                "multi_query": lambda header: heads_of(header).keys == 1,
                "new_decoder_architecture": lambda header: heads_of(header).keys > 1,
                "num_ln_in_parallel_attn": always(len(norms)),
                "bias": has("attn_qkv.bias"),
            },
            norms
            | BLOOM_MLP
            | {
                "attn_qkv": "self_attention.query_key_value",
                "attn_output": "self_attention.dense",
            },
            {
                "token_embd": "transformer.word_embeddings",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            changes={"attn_qkv": grouped},
            layer="transformer.h.{}.",
            applies=applies,
        )
        for norms, applies in (
            ({"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"}, has("attn_norm_2.weight")),
            ({"attn_norm": "input_layernorm"}, lambda header: True),
        )
    ),
    "gpt-oss": (
        Architecture(
            "gpt_oss",
            ANY_HEADS
            | LOCAL_EXPERTS
            | {
                "intermediate_size": "expert_feed_forward_length",
                "sliding_window": "attention.sliding_window",
            },
            ATTENTION
            | {
                "attn_norm": "input_layernorm",
                "post_attention_norm": "post_attention_layernorm",
                "ffn_gate_inp": "mlp.router",
            },
            made={
                "self_attn.sinks": Made(("attn_sinks.weight",), same),
                "mlp.experts.gate_up_proj": Made(
                    ("ffn_gate_exps.weight", "ffn_up_exps.weight"), alternating_columns
                ),
                "mlp.experts.gate_up_proj_bias": Made(
                    ("ffn_gate_exps.bias", "ffn_up_exps.bias"), alternating
                ),
                "mlp.experts.down_proj": Made(("ffn_down_exps.weight",), transposed),
                "mlp.experts.down_proj_bias": Made(("ffn_down_exps.bias",), same),
            },
        ),
    ),
    "gptneox": (
        Architecture(
            "gpt_neox",
            LAYER_NORM
            | {
                "use_parallel_residual": "use_parallel_residual",
                "attention_bias": has("attn_qkv.bias"),
            },
            BEFORE
            | BLOOM_MLP
            | {"attn_qkv": "attention.query_key_value", "attn_output": "attention.dense"},
            {
                "token_embd": "gpt_neox.embed_in",
                "output_norm": "gpt_neox.final_layer_norm",
                "output": "lm_head",
            },
            changes={"attn_qkv": grouped},
            layer="gpt_neox.layers.{}.",
            turns_parts=True,
        ),
    ),
    "granitemoe": (
        Architecture(
            "granitemoe",
            RMS | GRANITE | LOCAL_EXPERTS,
            LLAMA,
            made=routed("block_sparse_moe.experts", "block_sparse_moe.router"),
            changes=HALVES,
        ),
    ),
    "llama": (
        Architecture(
            "mixtral",
            ANY_HEADS | LOCAL_EXPERTS,
            LLAMA,
            made=ROUTED,
            changes=HALVES,
            applies=is_set("expert_count"),
        ),
        Architecture(
            "llama",
            ANY_HEADS | {"attention_bias": has("attn_q.bias"), "mlp_bias": has("ffn_up.bias")},
            LLAMA,
            changes=HALVES,
            is_plain=True,
        ),
    ),
    "minimax-m2": (
        Architecture(
            "minimax_m2",
            ANY_HEADS
            | LOCAL_EXPERTS
            | {
                "intermediate_size": "expert_feed_forward_length",
                "rotary_dim": "rope.dimension_count",
            },
            LLAMA,
            made=ROUTED | {"mlp.e_score_correction_bias": Made(("exp_probs_b.bias",), same)},
            turns_parts=True,
        ),
    ),
    "mpt": (
        Architecture(
            "mpt",
            {
                "max_seq_len": "context_length",
                "n_layers": "block_count",
                "d_model": "embedding_length",
                "n_heads": "attention.head_count",
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
                "expansion_ratio": _expansion,
                "attn_config": _mpt_attention,
            },
            {
                "attn_norm": "norm_1",
                "attn_qkv": "attn.Wqkv",
                "attn_output": "attn.out_proj",
                "ffn_norm": "norm_2",
                "ffn_up": "ffn.up_proj",
                "ffn_down": "ffn.down_proj",
            },
            {
                "token_embd": "transformer.wte",
                "output_norm": "transformer.norm_f",
                "output": "lm_head",
            },
            turns=False,
            layer="transformer.blocks.{}.",
        ),
    ),
    "qwen2moe": (
        Architecture(
            "qwen2_moe",
            RMS
            | SMALL_EXPERTS
            | {"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
            LLAMA | SHARED,
            made=ROUTED
            | {"mlp.shared_expert_gate.weight": Made(("ffn_gate_inp_shexp.weight",), one_row)},
        ),
    ),
    "qwen3moe": (
        Architecture(
            "qwen3_moe",
            ANY_HEADS | SMALL_EXPERTS | {"norm_topk_prob": always(True)},
            LLAMA,
            made=ROUTED,
        ),
    ),
}
"""By architecture; of several, the first that applies."""
