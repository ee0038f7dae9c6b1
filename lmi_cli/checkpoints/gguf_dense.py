"""Descriptions of architectures that are Llama with other norms, projections or positions.

Imports the standard library only.
"""

from lmi_cli.checkpoints.gguf_changes import (
    less_one,
)
from lmi_cli.checkpoints.gguf_description import (
    AFTER,
    ANY_HEADS,
    ATTENTION,
    BEFORE,
    GEMMA_2,
    GEMMA_2_SETTINGS,
    GEMMA_CHANGES,
    GRANITE,
    HALVES,
    LAYER_NORM,
    LLAMA,
    MLP,
    OUTER,
    RMS,
    SIZES,
    Architecture,
    has,
)

DENSE: dict[str, tuple[Architecture, ...]] = {
    "arcee": (Architecture("arcee", ANY_HEADS, LLAMA, changes=HALVES),),
    "command-r": (
        Architecture(
            "cohere",
            LAYER_NORM | {"logit_scale": "logit_scale", "use_qk_norm": has("attn_q_norm.weight")},
            LLAMA,
        ),
    ),
    "cohere2": (
        Architecture(
            "cohere2",
            LAYER_NORM
            | {
                "head_dim": "attention.key_length",
                "logit_scale": "logit_scale",
                "sliding_window": "attention.sliding_window",
            },
            LLAMA,
        ),
    ),
    "ernie4_5": (
        Architecture(
            "ernie4_5",
            ANY_HEADS | {"use_bias": has("attn_q.bias")},
            LLAMA,
        ),
    ),
    "gemma": (Architecture("gemma", ANY_HEADS, LLAMA, changes=GEMMA_CHANGES, is_plain=True),),
    "gemma2": (
        Architecture("gemma2", GEMMA_2_SETTINGS, GEMMA_2, changes=GEMMA_CHANGES, is_plain=True),
    ),
    "gemma3": (
        Architecture(
            "gemma3_text",
            GEMMA_2_SETTINGS,
            GEMMA_2,
            changes=GEMMA_CHANGES,
            is_plain=True,
        ),
    ),
    "glm4": (
        Architecture(
            "glm4",
            ANY_HEADS | {"attention_bias": has("attn_q.bias")},
            LLAMA
            | {
                "ffn_up": "mlp.gate_up_proj",
                "post_attention_norm": "post_self_attn_layernorm",
                "post_ffw_norm": "post_mlp_layernorm",
            },
            turns_parts=True,
        ),
    ),
    "granite": (
        Architecture(
            "granite",
            RMS | GRANITE | {"attention_bias": has("attn_q.bias")},
            LLAMA,
            changes=HALVES,
            is_plain=True,
        ),
    ),
    "nemotron": (
        Architecture(
            "nemotron",
            SIZES
            | {
                "norm_eps": "attention.layer_norm_epsilon",
                "head_dim": "attention.key_length",
                "attention_bias": has("attn_q.bias"),
                "mlp_bias": has("ffn_up.bias"),
            },
            LLAMA,
            changes={
                f"{name}.weight": less_one for name in ("attn_norm", "ffn_norm", "output_norm")
            },
            turns_parts=True,
        ),
    ),
    "olmo": (
        Architecture("olmo", SIZES | {"clip_qkv": "attention.clamp_kqv"}, LLAMA, changes=HALVES),
    ),
    "olmo2": (Architecture("olmo2", RMS, ATTENTION | MLP | AFTER, is_plain=True),),
    "phi2": (
        Architecture(
            "phi",
            LAYER_NORM,
            {
                "attn_norm": "input_layernorm",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_output": "self_attn.dense",
                "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            },
            OUTER | {"output_norm": "model.final_layernorm"},
            turns_parts=True,
        ),
    ),
    "phi3": (
        Architecture(
            "phi3",
            RMS | {"sliding_window": "attention.sliding_window"},
            BEFORE
            | {
                "attn_qkv": "self_attn.qkv_proj",
                "attn_output": "self_attn.o_proj",
                "ffn_up": "mlp.gate_up_proj",
                "ffn_down": "mlp.down_proj",
            },
            is_plain=True,
            turns_parts=True,
        ),
    ),
    "qwen2": (Architecture("qwen2", RMS, LLAMA, is_plain=True),),
    "qwen3": (Architecture("qwen3", ANY_HEADS, LLAMA, is_plain=True),),
    "smollm3": (Architecture("smollm3", RMS, LLAMA, changes=HALVES, is_plain=True),),
    "stablelm": (
        Architecture(
            "stablelm",
            LAYER_NORM
            | {
                "use_qkv_bias": has("attn_q.bias"),
                "use_parallel_residual": lambda header: not has("ffn_norm.weight")(header),
                "qk_layernorm": has("attn_q_norm.weight"),
            },
            LLAMA
            | {
                "attn_q_norm": "self_attn.q_layernorm.norms.*",
                "attn_k_norm": "self_attn.k_layernorm.norms.*",
            },
            turns_parts=True,
        ),
    ),
    "starcoder2": (
        Architecture(
            "starcoder2",
            SIZES
            | {"norm_epsilon": "attention.layer_norm_epsilon", "use_bias": has("attn_q.bias")},
            LLAMA | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        ),
    ),
}
"""By architecture; of several, the first that applies."""
