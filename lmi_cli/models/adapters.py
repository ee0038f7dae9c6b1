"""Attention modules that do not look up their function, made to call ours.

What such a module computes before and after attention is written here once more, with its own
projections; positions, masks and the softmax are ours. See :mod:`lmi_cli.models.hook`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmi_cli.attention.ranges import QKV

Attend = Callable[[QKV], Tensor]
"""Attention of the layer: output ``[B, H, Q, Dv]``."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How the attention of a family's layers is replaced.

    Attributes:
        attention: Name of the attention module in a layer.
        forward: Called with that module, our attention and what the module is called with; returns
            what the module returns.
        arguments: What the model is to be called with besides.
        attributes: Attributes of the base model that are replaced.
    """

    attention: str
    forward: Callable[..., tuple[Tensor, None]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _joined(output: Tensor) -> Tensor:
    """Outputs of the heads ``[B, H, Q, D]`` side by side, ``[B, Q, H * D]``."""
    return output.transpose(1, 2).flatten(2)


def _mpt(module: Any, attend: Attend, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    fused = module.Wqkv(hidden_states)
    if module.clip_qkv:
        fused = fused.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    query, key, value = fused.unflatten(-1, (3, module.n_heads, -1)).permute(2, 0, 3, 1, 4)
    output = attend(QKV(query, key, value, module.softmax_scale))
    return module.out_proj(_joined(output)), None


def _bloom(
    module: Any, attend: Attend, hidden_states: Tensor, residual: Tensor, **_: Any
) -> tuple[Tensor, None]:
    fused = module.query_key_value(hidden_states)
    query, key, value = fused.unflatten(-1, (module.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
    output = attend(QKV(query, key, value, module.inv_norm_factor))
    return residual + module.dense(_joined(output)), None


def _falcon(
    module: Any,
    attend: Attend,
    hidden_states: Tensor,
    alibi: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    # For each key head its query heads, the key and the value; each head apart where there are as
    # many key heads.
    key_heads = module.num_kv_heads
    heads = module.query_key_value(hidden_states).unflatten(-1, (key_heads, -1, module.head_dim))
    query, key, value = heads.transpose(1, 2).split((heads.shape[3] - 2, 1, 1), dim=3)
    query = query.permute(0, 1, 3, 2, 4).flatten(1, 2)
    key, value = key.squeeze(3), value.squeeze(3)
    if alibi is None and position_embeddings is not None:
        # At position 0 a cosine is the factor that some sets of frequencies put on both.
        factor = position_embeddings[0][:, None]
        query, key = query * factor, key * factor
    output = attend(QKV(query, key, value, module.inv_norm_factor))
    return module.dense(_joined(output)), None


def _no_table(*_: Any, **__: Any) -> None:
    """Instead of the biases of all positions up to the trained length."""


MPT = Adapter(
    "attn",
    _mpt,
    # It converts whatever mask it gets; one of four dimensions is taken as it is.
    arguments={"attention_mask": torch.ones(1, 1, 1, 1)},
    attributes={"build_mpt_alibi_tensor": _no_table},
)
BLOOM = Adapter("self_attention", _bloom)
FALCON = Adapter("self_attention", _falcon)
