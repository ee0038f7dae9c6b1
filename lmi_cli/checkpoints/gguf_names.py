"""What the tensors of a GGUF file are called in the model folder that is made of it.

For architectures whose tensors need no more than another name, apart from the rotary halves of
Llama's queries and keys, which GGUF files interleave. Imports the standard library only.
"""

import re

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Those of which every tensor is known here."""

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
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
_LAYER = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
IGNORED = frozenset(("rope_freqs.weight",))
"""Tensors that the configuration stands for."""


def name_of(tensor: str) -> str | None:
    """The name of a tensor in the model folder; None if it is not known."""
    if tensor in _OUTER:
        return _OUTER[tensor]
    found = _LAYER.fullmatch(tensor)
    if found is None or found[2] not in _INNER:
        return None
    return f"model.layers.{found[1]}.{_INNER[found[2]]}.{found[3]}"


def halves_of(architecture: str, tensor: str) -> str | None:
    """Whose heads interleave the rows of a tensor: ``q``, ``k``, or None for nobody's."""
    found = _LAYER.fullmatch(tensor)
    if architecture != "llama" or found is None:
        return None
    return {"attn_q": "q", "attn_k": "k"}.get(found[2])
