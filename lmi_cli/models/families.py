"""The supported model families, and what a configuration says about each attention layer.

A family is listed here once its rotary layout is known, and with the layout of its layers if our
own decoder can run it; the self-check then compares a small random model of the same configuration
with the stock implementation, so a wrong row leads to an error and never to a wrong result.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lmi_cli.attention.growth import QueryGrowth
from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.rope import Rotary
from lmi_cli.checkpoints.model_types import LEARNED_POSITIONS
from lmi_cli.errors import ModelError
from lmi_cli.models.adapters import BLOOM, FALCON, MPT, Adapter
from lmi_cli.models.alibi import Slopes, bloom_slopes, falcon_slopes, mpt_slopes, no_slopes
from lmi_cli.models.blueprint import LayerLayout
from lmi_cli.models.recurrent import ROTATED, attention_layers, is_recurrent
from lmi_cli.models.shape import shape_of
from lmi_cli.models.trained_length import trained_length


def _all_layers(config: PretrainedConfig, layer: int) -> bool:
    return True


def _listed_layers(config: PretrainedConfig, layer: int) -> bool:
    return bool(config.no_rope_layers[layer])


def _sliding_layers(config: PretrainedConfig, layer: int) -> bool:
    return layer_type(config, layer) == "sliding_attention"


def _sliding_layers_if_any(config: PretrainedConfig, layer: int) -> bool:
    return config.sliding_window is None or _sliding_layers(config, layer)


def _unless_alibi(config: PretrainedConfig, layer: int) -> bool:
    return not config.alibi


def _no_layer(config: PretrainedConfig, layer: int) -> bool:
    return False


def _in_the_model(config: PretrainedConfig) -> None:
    """Frequencies are a buffer of the model's rotary module."""


def _no_growth(config: PretrainedConfig, layer: int) -> None:
    """Queries are what the projections make of them."""


def _ministral3_growth(config: PretrainedConfig, layer: int) -> QueryGrowth | None:
    rope = config.rope_parameters
    rate, every = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    return QueryGrowth(rate, every, trained_length(config) - 1) if rate else None


def _llama4_growth(config: PretrainedConfig, layer: int) -> QueryGrowth | None:
    if not config.attn_temperature_tuning or _listed_layers(config, layer):
        return None
    last = trained_length(config) - 1
    return QueryGrowth(config.attn_scale, config.floor_scale, last, ahead=1)


def _gptj_frequencies(config: PretrainedConfig) -> Tensor:
    """Those of Su et al. 2021 (arXiv 2104.09864), section 3.2.2, as the model's table has them."""
    size = config.rotary_dim or config.hidden_size
    exponents = torch.arange(0, size, 2) / size
    return torch.pow(10000.0, exponents).reciprocal()


def _unscaled(config: PretrainedConfig) -> float:
    return 1.0


def _root_of_hidden(config: PretrainedConfig) -> float:
    return float(torch.tensor(config.hidden_size**0.5, dtype=torch.float32))


def multiplied(config: PretrainedConfig) -> float:
    """The factor on embeddings that a configuration names."""
    return float(config.embedding_multiplier)


@dataclass(frozen=True, slots=True)
class Family:
    """How a family embeds positions and, for our own decoder, all else.

    Attributes:
        interleaved: Whether a rotary pair is two neighbours, not one component from each half.
        has_rotary: Whether a layer of a configuration is rotated at all.
        frequencies: Inverse rotary frequencies of a configuration where the model has only a table
            of cosines; None where it has them.
        slopes: Those of ALiBi, of the heads of a configuration.
        growth: How queries of a layer of a configuration grow with their position.
        stock: The attention of transformers with which ours is compared.
        adapter: How attention modules call ours that do not look it up.
        layout: How its layers are put together; None where our own decoder cannot run them.
        embedding_scale: Factor on the embeddings of a configuration.
    """

    interleaved: bool = False
    has_rotary: Callable[[PretrainedConfig, int], bool] = _all_layers
    frequencies: Callable[[PretrainedConfig], Tensor | None] = _in_the_model
    slopes: Slopes = no_slopes
    growth: Callable[[PretrainedConfig, int], QueryGrowth | None] = _no_growth
    stock: str = "eager"
    adapter: Adapter | None = None
    layout: LayerLayout | None = None
    embedding_scale: Callable[[PretrainedConfig], float] = _unscaled


_HALVES = Family()
_PAIRS = Family(interleaved=True)
_LLAMA = Family(layout=LayerLayout())
_GEMMA = LayerLayout(norm_offset=1.0, norm_twice=False)
_GEMMA_2 = replace(
    _GEMMA,
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)
_OLMO_2 = LayerLayout(
    before_attention=None,
    after_attention="post_attention_layernorm",
    before_mlp=None,
    after_mlp="post_feedforward_layernorm",
    norm_twice=False,
    whole_norms=True,
)

FAMILIES: dict[str, Family] = {
    "afmoe": Family(has_rotary=_sliding_layers),
    "arcee": _HALVES,
    "bloom": Family(has_rotary=_no_layer, slopes=bloom_slopes, adapter=BLOOM),
    "codegen": Family(interleaved=True, frequencies=_gptj_frequencies),
    "cohere": _PAIRS,
    "cohere2": Family(interleaved=True, has_rotary=_sliding_layers),
    "cohere2_moe": Family(interleaved=True, has_rotary=_sliding_layers),
    "deepseek_v2": _PAIRS,
    "deepseek_v3": _HALVES,
    "ernie4_5": _PAIRS,
    "exaone4": Family(has_rotary=_sliding_layers_if_any),
    "exaone_moe": Family(has_rotary=_sliding_layers_if_any),
    # Its plain attention adds the biases of ALiBi twice.
    "falcon": Family(has_rotary=_unless_alibi, slopes=falcon_slopes, stock="sdpa", adapter=FALCON),
    "gemma": Family(layout=_GEMMA, embedding_scale=_root_of_hidden),
    "gemma2": Family(layout=_GEMMA_2, embedding_scale=_root_of_hidden),
    "gemma3_text": Family(layout=_GEMMA_2, embedding_scale=_root_of_hidden),
    "glm": _PAIRS,
    "glm4": _PAIRS,
    "gpt_neox": _HALVES,
    "gpt_oss": _HALVES,
    "gptj": Family(interleaved=True, frequencies=_gptj_frequencies),
    "granite": Family(layout=LayerLayout(), embedding_scale=multiplied),
    "granitemoe": _HALVES,
    "granitemoeshared": _HALVES,
    "helium": _PAIRS,
    "llama": _LLAMA,
    "llama4_text": Family(interleaved=True, has_rotary=_listed_layers, growth=_llama4_growth),
    "minicpm3": _HALVES,
    "ministral": _HALVES,
    "ministral3": Family(growth=_ministral3_growth),
    "mistral": _LLAMA,
    "mixtral": _HALVES,
    "mpt": Family(has_rotary=_no_layer, slopes=mpt_slopes, adapter=MPT),
    "olmo": _HALVES,
    "olmo2": Family(layout=_OLMO_2),
    "olmo3": _HALVES,
    "olmoe": _HALVES,
    "phi": _HALVES,
    "phi3": Family(layout=LayerLayout(fused=True)),
    "phimoe": _HALVES,
    "qwen2": _LLAMA,
    "qwen2_moe": _HALVES,
    "qwen3": _LLAMA,
    "qwen3_moe": _HALVES,
    "smollm3": Family(has_rotary=_listed_layers, layout=LayerLayout()),
    "stablelm": _HALVES,
    "starcoder2": _HALVES,
}

RECURRENT = {name: Family(has_rotary=rotated) for name, rotated in ROTATED.items()}
"""Families with recurrent layers; see :mod:`lmi_cli.models.recurrent`."""

_ONLY_IN_LONG_TEXTS = {
    "index_topk": "keys are chosen by an index",
    "index_topk_blocks": "keys are chosen by an index",
    "attention_chunk_size": "some layers attend within chunks of their own",
    "floor_scale": "queries grow with their position",
}
"""Settings of families without a row that no short text of the self-check would show."""


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration, by the table.

    Raises:
        ModelError: It has no row; the hint lists those that have one.
    """
    name, families = config.model_type, FAMILIES | RECURRENT
    if name in families:
        return families[name]
    if name in LEARNED_POSITIONS:
        reason = "learned absolute positions end at the trained length; use a rotary model"
    else:
        reason = "this family is not supported"
    raise ModelError(f"{name}: {reason}", hint="supported families: " + ", ".join(sorted(families)))


def candidates(config: PretrainedConfig) -> tuple[Family, ...]:
    """What a configuration may be, for the self-check to choose from.

    That is its row, and without one either layout of rotary pairs, where transformers has such a
    decoder and the configuration gives rotary parameters.

    Raises:
        ModelError: It can be nothing that is supported.
    """
    named = config.model_type in FAMILIES or config.model_type in LEARNED_POSITIONS
    known = named or is_recurrent(config)
    rotary = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and bool(
        getattr(config, "rope_parameters", None)
    )
    if known or not rotary or config.is_encoder_decoder:
        return (family_of(config),)
    for name, reason in _ONLY_IN_LONG_TEXTS.items():
        if getattr(config, name, None) is not None:
            raise ModelError(
                f"{config.model_type}: this family is not supported, as {reason} ({name})"
            )
    listed = isinstance(getattr(config, "no_rope_layers", None), list)
    halves = Family(has_rotary=_listed_layers if listed else _all_layers)
    return halves, replace(halves, interleaved=True)


def layer_specs(
    model: PreTrainedModel, horizon: int, family: Family | None = None
) -> list[LayerSpec]:
    """Index, native window and positions of every attention layer.

    Args:
        model: A loaded model.
        horizon: Number of tokens for which frequencies that depend on the length of the text are
            computed, once and for all.
        family: What is known of its family; None for what the table says.
    """
    config = model.config
    family, shape = family or family_of(config), shape_of(config)
    slopes, table = family.slopes(config), family.frequencies(config)
    sets: dict[str | None, Rotary] = {}
    specs: list[LayerSpec] = []
    for index, layer in enumerate(attention_layers(config)):
        rotary = None
        if family.has_rotary(config, layer):
            kind = None if table is not None else _frequency_set(model, layer)
            if kind not in sets:
                frequencies = _inv_freq(model, kind, horizon) if table is None else table
                sets[kind] = Rotary(frequencies, family.interleaved)
            rotary = sets[kind]
        window, growth = native_window(config, layer), family.growth(config, layer)
        chunked = is_chunked(config, layer)
        specs.append(LayerSpec(index, rotary, window, shape.key_heads, slopes, growth, chunked))
    return specs


def native_window(config: PretrainedConfig, layer: int) -> int | None:
    """The window, in tokens, that a layer was trained with; None if it sees everything.

    It slides, or is the chunk within which the layer attends: see :func:`is_chunked`.
    """
    if is_chunked(config, layer):
        return int(config.attention_chunk_size)
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    return None if layer_type(config, layer) == "full_attention" else int(window)


def is_chunked(config: PretrainedConfig, layer: int) -> bool:
    """Whether a layer attends within chunks of the stream, as some of Llama 4 do."""
    return layer_type(config, layer) == "chunked_attention"


def layer_type(config: PretrainedConfig, layer: int) -> str | None:
    """What a configuration calls the attention of a layer; None if it tells no kinds apart."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds is None else str(kinds[layer])


def _rotary_module(model: PreTrainedModel) -> nn.Module:
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            found: nn.Module = module
            return found
    raise ModelError(f"{model.config.model_type}: no rotary frequencies found in the model")


def _frequency_set(model: PreTrainedModel, layer: int) -> str | None:
    """Name of the layer's frequency set; None if the model has one set for all layers."""
    if hasattr(_rotary_module(model), "inv_freq"):
        return None
    return layer_type(model.config, layer)


def _inv_freq(model: PreTrainedModel, kind: str | None, horizon: int) -> Tensor:
    module, config = _rotary_module(model), model.config
    parameters: dict[str, Any] = config.rope_parameters
    if kind is not None:
        parameters = parameters[kind]
    rope_type = parameters["rope_type"]
    prefix = "" if kind is None else f"{kind}_"
    if rope_type in ("dynamic", "longrope"):
        native = parameters.get("original_max_position_embeddings", trained_length(config))
        if horizon > native:
            arguments = {} if kind is None else {"layer_type": kind}
            computed: Tensor = ROPE_INIT_FUNCTIONS[rope_type](
                config, device="cpu", seq_len=horizon, **arguments
            )[0]
            return computed.float()
        prefix += "original_"  # the other one is overwritten with every text
    buffer: Tensor = getattr(module, f"{prefix}inv_freq")
    return buffer.detach().float().cpu()
