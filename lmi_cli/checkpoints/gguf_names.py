"""What the tensors of a GGUF file are called in the model folder that is made of it.

For architectures whose tensors need no more than another name, apart from two things: the rotary
halves of Llama's queries and keys, which GGUF files interleave, and Gemma's norms, which they store
with one added. Imports the standard library only.
"""

import re

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA = _LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_LAYER = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "phi3": _PHI,
}
"""Names in a layer, for the architectures of which every tensor is known here."""

_LAYER = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
IGNORED = frozenset(("rope_freqs.weight",))
"""Tensors that the configuration stands for."""


def name_of(architecture: str, tensor: str) -> str | None:
    """The name of a tensor in the model folder; None if it is not known."""
    in_layer = _IN_LAYER.get(architecture)
    if in_layer is None or tensor in _OUTER:
        return None if in_layer is None else _OUTER[tensor]
    found = _LAYER.fullmatch(tensor)
    if found is None or found[2] not in in_layer:
        return None
    return f"model.layers.{found[1]}.{in_layer[found[2]]}.{found[3]}"


def halves_of(architecture: str, tensor: str) -> str | None:
    """Whose heads interleave the rows of a tensor: ``q``, ``k``, or None for nobody's."""
    found = _LAYER.fullmatch(tensor)
    if architecture != "llama" or found is None:
        return None
    return {"attn_q": "q", "attn_k": "k"}.get(found[2])


def norm_offset(architecture: str, tensor: str) -> float:
    """What a file has added to the weights of a tensor, a norm of Gemma."""
    return 1.0 if _IN_LAYER.get(architecture) is _GEMMA and "norm" in tensor else 0.0
