"""The supported model families, and what a configuration says about each attention layer.

A family is listed here once its rotary layout is known; the self-check then compares a small random
model of the same configuration with the stock implementation, so a wrong row leads to an error and
never to a wrong result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.rope import Rotary
from lmi_cli.errors import ModelError
from lmi_cli.models.blueprint import PLAIN_FAMILIES, Blueprint


def _all_layers(config: PretrainedConfig, layer: int) -> bool:
    return True


def _listed_layers(config: PretrainedConfig, layer: int) -> bool:
    return bool(config.no_rope_layers[layer])


def _sliding_layers(config: PretrainedConfig, layer: int) -> bool:
    return str(config.layer_types[layer]) == "sliding_attention"


@dataclass(frozen=True, slots=True)
class Family:
    """How a family embeds positions.

    Attributes:
        interleaved: Whether a rotary pair is two neighbours, not one component from each half.
        has_rotary: Whether a layer of a configuration is rotated at all.
    """

    interleaved: bool = False
    has_rotary: Callable[[PretrainedConfig, int], bool] = _all_layers


_HALVES = Family()
_PAIRS = Family(interleaved=True)

FAMILIES: dict[str, Family] = {
    "arcee": _HALVES,
    "cohere": _PAIRS,
    "cohere2": Family(interleaved=True, has_rotary=_sliding_layers),
    "ernie4_5": _PAIRS,
    "gemma": _HALVES,
    "gemma2": _HALVES,
    "gemma3_text": _HALVES,
    "glm": _PAIRS,
    "glm4": _PAIRS,
    "gpt_neox": _HALVES,
    "granite": _HALVES,
    "helium": _PAIRS,
    "llama": _HALVES,
    "mistral": _HALVES,
    "olmo": _HALVES,
    "olmo2": _HALVES,
    "phi": _HALVES,
    "phi3": _HALVES,
    "qwen2": _HALVES,
    "qwen3": _HALVES,
    "smollm3": Family(has_rotary=_listed_layers),
    "starcoder2": _HALVES,
}

_LEARNED_POSITIONS = {"gpt2", "opt", "gpt_bigcode", "codegen", "xglm", "biogpt", "gpt_neo"}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    Raises:
        ModelError: The family is not supported; the hint lists those that are.
    """
    name = config.model_type
    if name in FAMILIES:
        return FAMILIES[name]
    if name in _LEARNED_POSITIONS:
        reason = "learned absolute positions end at the trained length; use a rotary model"
    else:
        reason = "this family is not supported"
    raise ModelError(f"{name}: {reason}", hint="supported families: " + ", ".join(sorted(FAMILIES)))


_PLAIN_ROPE = ("default", "linear", "llama3")  # one set of frequencies, and no factor on scores


def plain_shape(config: PretrainedConfig) -> Blueprint | None:
    """The shape of a model that our own decoder can run; None for any other model."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    layers = range(config.num_hidden_layers)
    if (
        config.model_type not in PLAIN_FAMILIES
        or config.hidden_act != "silu"
        or rope.get("rope_type") not in _PLAIN_ROPE
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or any(native_window(config, layer) is not None for layer in layers)
        or getattr(config, "quantization_config", None) is not None
    ):
        return None
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if rope["rope_type"] == "default":
        inv_freq = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    else:
        inv_freq = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, device="cpu")[0].float()
    return Blueprint(
        family=config.model_type,
        trained_length=trained_length(config),
        layers=config.num_hidden_layers,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=size,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        epsilon=config.rms_norm_eps,
        inv_freq=tuple(inv_freq.tolist()),
        tied=bool(config.tie_word_embeddings),
    )


def trained_length(config: PretrainedConfig) -> int:
    """The length of text, in tokens, that the model was trained for.

    Raises:
        ModelError: The configuration does not give it.
    """
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        raise ModelError(f"{config.model_type}: the configuration gives no trained length")
    return length


def layer_specs(model: PreTrainedModel, horizon: int) -> list[LayerSpec]:
    """Index, native window and rotary frequencies of every attention layer.

    Args:
        model: A loaded model of a supported family.
        horizon: Number of tokens for which frequencies that depend on the length of the text are
            computed, once and for all.
    """
    config = model.config
    family = family_of(config)
    module = _rotary_module(model)
    sets: dict[str | None, Rotary] = {}
    specs: list[LayerSpec] = []
    for layer in range(config.num_hidden_layers):
        rotary = None
        if family.has_rotary(config, layer):
            kind = _frequency_set(module, config, layer)
            if kind not in sets:
                sets[kind] = Rotary(_inv_freq(module, config, kind, horizon), family.interleaved)
            rotary = sets[kind]
        specs.append(LayerSpec(layer, rotary, native_window(config, layer)))
    return specs


def native_window(config: PretrainedConfig, layer: int) -> int | None:
    """The sliding window, in tokens, that a layer was trained with; None if it sees everything."""
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] == "full_attention":
        return None
    return int(window)


def _rotary_module(model: PreTrainedModel) -> nn.Module:
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            found: nn.Module = module
            return found
    raise ModelError(f"{model.config.model_type}: no rotary frequencies found in the model")


def _frequency_set(module: nn.Module, config: PretrainedConfig, layer: int) -> str | None:
    """Name of the layer's frequency set; None if the model has one set for all layers."""
    if hasattr(module, "inv_freq"):
        return None
    return str(config.layer_types[layer])


def _inv_freq(
    module: nn.Module, config: PretrainedConfig, kind: str | None, horizon: int
) -> Tensor:
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
