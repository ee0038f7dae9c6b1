"""How an architecture of GGUF files is described, and what several have in common.

Names of architectures, keys and tensors are those of llama.cpp (``gguf-py/gguf/constants.py``);
settings, and names of the tensors of a model, are those of transformers. Imports the standard
library only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmi_cli.checkpoints.gguf import GgufHeader
from lmi_cli.checkpoints.gguf_changes import (
    Change,
    Heads,
    halves_of_keys,
    halves_of_queries,
    less_one,
    same,
    stacked,
)

OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of a model that is more than another name.

    Attributes:
        sources: Names in a layer of the file of what it is made of.
        change: How.
    """

    sources: tuple[str, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a file of an architecture becomes a model of a family.

    Attributes:
        family: Model type.
        settings: Settings by name, each with the key that holds it, or what it follows from.
        inner: Names of tensors in a layer of the file, without ``.weight`` and ``.bias``, with
            those in the model; ``*`` stands for the number of a row that is a tensor there.
        outer: Likewise outside all layers.
        made: Tensors of a layer of the model that are more than another name.
        changes: What was changed in tensors, by their names in the file without ``blk`` and number,
            and without ``.weight`` and ``.bias`` where it is the same for both.
        layer: What names in a layer of the model begin with; ``{}`` stands for its number.
        applies: Whether a file is of this kind, where its architecture is not enough.
        is_plain: Whether our own decoder runs it, so that blocks stay as they are.
        turns: Whether the family has rotary positions, of whole heads.
        turns_parts: Whether it can rotate a part of each head.
    """

    family: str
    settings: Mapping[str, "str | Callable[[GgufHeader], Any]"]
    inner: Mapping[str, str]
    outer: Mapping[str, str] = field(default_factory=lambda: OUTER)
    made: Mapping[str, Made] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    layer: str = "model.layers.{}."
    applies: Callable[[GgufHeader], bool] = lambda header: True
    is_plain: bool = False
    turns: bool = True
    turns_parts: bool = False


def has(name: str) -> Callable[[GgufHeader], bool]:
    """Whether the first layer of a file has a tensor."""
    return lambda header: f"blk.0.{name}" in header.tensors


def is_set(name: str) -> Callable[[GgufHeader], bool]:
    """Whether a key of a file is neither missing nor zero."""
    return lambda header: bool(header.values.get(f"{header.architecture}.{name}"))


def always(value: Any) -> Callable[[GgufHeader], Any]:
    """The same for every file."""
    return lambda header: value


def heads_of(header: GgufHeader) -> Heads:
    """Heads in a layer; zero where the file does not say."""

    def number(name: str, otherwise: int = 0) -> int:
        value = header.values.get(f"{header.architecture}.{name}")
        return value if isinstance(value, int) else otherwise

    queries = number("attention.head_count")
    return Heads(
        queries,
        number("attention.head_count_kv", queries),
        number("ssm.group_count"),
        number("ssm.time_step_rank"),
        number("ssm.inner_size"),
    )


def layer_count(header: GgufHeader) -> int:
    """Number of layers, without those that only draft tokens."""
    every, drafting = (
        header.values.get(f"{header.architecture}.{name}", 0)
        for name in ("block_count", "nextn_predict_layers")
    )
    return int(every) - int(drafting)


SIZES: dict[str, Any] = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": lambda header: heads_of(header).keys,
}
RMS = SIZES | {"rms_norm_eps": "attention.layer_norm_rms_epsilon"}
ANY_HEADS = RMS | {"head_dim": "attention.key_length"}
LAYER_NORM = SIZES | {"layer_norm_eps": "attention.layer_norm_epsilon"}
EXPERTS = {"num_experts_per_tok": "expert_used_count"}
SMALL_EXPERTS = EXPERTS | {
    "num_experts": "expert_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
LOCAL_EXPERTS = EXPERTS | {"num_local_experts": "expert_count"}
GRANITE = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
BEFORE = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
MLP = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SHARED = {
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
LLAMA = BEFORE | ATTENTION | MLP
GEMMA_2 = LLAMA | AFTER | {"ffn_norm": "pre_feedforward_layernorm"}
GEMMA_CHANGES = dict.fromkeys(
    ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "output_norm", "attn_q_norm",
     "attn_k_norm"),
    less_one,
)  # fmt: skip
HALVES: dict[str, Change] = {"attn_q": halves_of_queries, "attn_k": halves_of_keys}
BLOOM_MLP = {"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}


def routed(experts: str, router: str) -> dict[str, Made]:
    """Experts as transformers keeps them, by the names of their module and of the router's."""
    return {
        f"{router}.weight": Made(("ffn_gate_inp.weight",), same),
        f"{experts}.gate_up_proj": Made(("ffn_gate_exps.weight", "ffn_up_exps.weight"), stacked),
        f"{experts}.down_proj": Made(("ffn_down_exps.weight",), same),
    }


ROUTED = routed("mlp.experts", "mlp.gate")
GEMMA_2_SETTINGS = ANY_HEADS | {
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
