"""The shape of a model that our own decoder runs, from its configuration."""

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lmi_cli.models.blueprint import Blueprint
from lmi_cli.models.families import FAMILIES, layer_type, multiplied, native_window
from lmi_cli.models.shape import shape_of
from lmi_cli.models.trained_length import trained_length
from lmi_cli.native.linear import GATES

_PLAIN_ROPE = ("default", "linear", "llama3")  # one set of frequencies, and no factor on scores


def plain_shape(config: PretrainedConfig) -> Blueprint | None:
    """The shape of a model that our own decoder can run; None for any other model."""
    family = FAMILIES.get(config.model_type)
    if family is None or family.layout is None:
        return None
    shape = shape_of(config)
    layers, size = range(shape.layers), shape.head_size
    kinds = [_rope_kind(config, layer) for layer in layers]
    found = {kind: _plain_frequencies(config, kind, size) for kind in dict.fromkeys(kinds)}
    frequencies = {kind: each for kind, each in found.items() if each is not None}
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    embedding_scale = family.embedding_scale(config)
    if (
        len(frequencies) < len(found)
        or activation not in GATES
        # Rounded to bfloat16, another one would not be what transformers multiplies by.
        or (family.embedding_scale is multiplied and not _is_bfloat16(embedding_scale))
        or getattr(config, "use_bidirectional_attention", None)
        or getattr(config, "quantization_config", None) is not None
    ):
        return None
    places = {kind: at for at, kind in enumerate(frequencies)}
    per_query: float | None = getattr(config, "query_pre_attn_scalar", None)
    score_scale: float | None = getattr(config, "attention_multiplier", None)
    return Blueprint(
        family=config.model_type,
        trained_length=trained_length(config),
        layers=shape.layers,
        heads=shape.heads,
        key_heads=shape.key_heads,
        head_size=size,
        hidden=shape.hidden,
        inner=shape.inner,
        vocabulary=shape.vocabulary,
        epsilon=config.rms_norm_eps,
        frequencies=tuple(frequencies.values()),
        rotaries=tuple(
            places[kinds[layer]] if family.has_rotary(config, layer) else None for layer in layers
        ),
        windows=tuple(native_window(config, layer) for layer in layers),
        tied=bool(config.tie_word_embeddings),
        layout=family.layout,
        activation=activation,
        score_scale=score_scale if per_query is None else per_query**-0.5,
        softcap=getattr(config, "attn_logit_softcapping", None),
        embedding_scale=embedding_scale,
        residual_scale=getattr(config, "residual_multiplier", 1.0),
        logits_divisor=getattr(config, "logits_scaling", 1.0),
        logits_softcap=getattr(config, "final_logit_softcapping", None),
    )


def _is_bfloat16(number: float) -> bool:
    return float(torch.tensor(number, dtype=torch.bfloat16)) == number


def _rope_kind(config: PretrainedConfig, layer: int) -> str | None:
    """The kind of layer whose rotary parameters a layer has; None if all have the same."""
    kind = str(layer_type(config, layer))
    return kind if kind in (getattr(config, "rope_parameters", None) or {}) else None


def _plain_frequencies(
    config: PretrainedConfig, kind: str | None, size: int
) -> tuple[float, ...] | None:
    """Inverse rotary frequencies of whole heads; None if they are scaled in another way."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    rope = rope if kind is None else rope[kind]
    rope_type = rope.get("rope_type")
    if rope_type not in _PLAIN_ROPE or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    if rope_type == "default":
        inv_freq = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    else:
        arguments = {} if kind is None else {"layer_type": kind}
        inv_freq = ROPE_INIT_FUNCTIONS[rope_type](config, device="cpu", **arguments)[0].float()
    return tuple(inv_freq.tolist())
