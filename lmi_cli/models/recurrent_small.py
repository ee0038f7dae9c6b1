"""Models with recurrent layers in small: for the self-check, and for the size of their states."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lmi_cli.models.recurrent import RWKV, StateCache, attention_layers, is_recurrent

_HEADS = 4
_STATE = 8
_INNER = 32

# What may be smaller than it is, by the names that configurations have for it.
_AT_MOST = {
    **dict.fromkeys(("vocab_size", "intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), _INNER),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), _INNER),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), _STATE),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), _STATE),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "mamba_ngroups", "num_experts_per_tok"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_mem_blocks"), 1),
    **dict.fromkeys(("adapter_rank", "block_multiple_of", "moe_latent_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    "sliding_window": 7,
}
_LISTS = ("layers_block_type", "layer_types", "mlp_layer_types")
_DERIVED = ("time_step_rank", "mamba_dt_rank", "mamba_d_head")
"""What configurations compute themselves if it says ``auto``."""

_COMPUTED = {
    **dict.fromkeys(("mamba", "falcon_mamba", "mamba2", RWKV), ("intermediate_size",)),
    "zamba2": (
        "attention_hidden_size", "attention_head_dim", "mamba_headdim", "kv_channels",
        "num_query_groups", "hybrid_layer_ids",
    ),
}  # fmt: skip
"""What configurations of a family compute themselves if they do not say it."""


def shrink_recurrent(config: PretrainedConfig, heads: int) -> PretrainedConfig:
    """The configuration with few small layers; nothing about positions and steps changes.

    Args:
        config: A configuration with recurrent layers.
        heads: Query heads of an attention layer, of which a key head has as many as before; 0
            without attention layers.
    """
    known = config.to_dict()
    small: dict[str, Any] = {
        name: min(size, known[name])
        for name, size in _AT_MOST.items()
        if type(known.get(name)) is int
    }
    small |= {name: "auto" for name in _DERIVED if known.get(name) is not None}
    small |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    hidden = _INNER
    if heads:
        key_heads = min(2, getattr(config, "num_key_value_heads", None) or heads)
        folds = max(1, min(2, heads // (getattr(config, "num_key_value_heads", None) or heads)))
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        small |= {"num_attention_heads": key_heads * folds, "num_key_value_heads": key_heads}
        hidden = key_heads * folds * head_size
        if config.model_type == "zamba2":  # which attends to states and embeddings together
            hidden //= 2
    inner = int(hidden * (known.get("expand") or known.get("mamba_expand") or 1))
    small["hidden_size"] = hidden
    for name in ("num_heads", "mamba_num_heads", "mamba_n_heads", "n_mamba_heads"):
        if name in known:
            small[name] = _HEADS
    for name in ("head_dim", "mamba_head_dim"):
        if name in known and (name != "head_dim" or not heads):
            small[name] = inner // _HEADS
    if "mamba_d_ssm" in known:
        small["mamba_d_ssm"] = inner
    if "linear_num_key_heads" in known:
        folds = max(1, min(2, config.linear_num_value_heads // config.linear_num_key_heads))
        small |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2 * folds}
    if config.model_type == RWKV:
        small["attention_hidden_size"] = hidden
    for name in _COMPUTED.get(config.model_type, ()):
        known.pop(name, None)
        small.pop(name, None)
    return type(config)(**known | small | _few_layers(config, known))


def _few_layers(config: PretrainedConfig, known: dict[str, Any]) -> dict[str, Any]:
    """The settings of a model with one layer of each kind, or two of one kind."""
    if config.model_type == "jamba":
        return {"num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1} | {
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        }
    kinds = list(getattr(config, "layer_types", None) or [])
    first = list({kind: at for at, kind in reversed(list(enumerate(kinds)))}.values())[::-1]
    kept = sorted(first) if len(first) > 1 else list(range(min(2, config.num_hidden_layers)))
    few: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name in _LISTS:
        if isinstance(known.get(name), list):
            few[name] = [known[name][at] for at in kept]
    if "attn_layer_indices" in known:
        attending = attention_layers(config)
        few["attn_layer_indices"] = [place for place, at in enumerate(kept) if at in attending]
    if "full_attn_idxs" in known:
        few["full_attn_idxs"] = None
    return few


def state_bytes(config: PretrainedConfig) -> int:
    """Bytes of the state that all recurrent layers together carry, in float32."""
    if not is_recurrent(config):
        return 0
    if config.model_type == RWKV:
        return int(5 * config.hidden_size * config.num_hidden_layers) * torch.float32.itemsize
    cache = StateCache({}, {})
    with torch.device("meta"), torch.inference_mode():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        ).eval()
        token = torch.empty(1, 1, config.hidden_size)
        for module in model.modules():
            # A recurrent layer begins with a convolution over the last few tokens.
            if any(isinstance(child, nn.Conv1d) for child in module.children()):
                module(token, cache=cache)
    return sum(state.nbytes for state in cache.states.values())
