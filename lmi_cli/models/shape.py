"""The shape of a model, whatever its configuration and its modules call the parts.

The names that transformers itself maps to those of Llama (``n_embd``, ``d_model``, ``n_layers``)
need nothing here.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from lmi_cli.errors import ModelError
from lmi_cli.models.recurrent import attention_layers

_A_KEY_HEAD_EACH = ("bloom", "codegen", "gpt_neox", "gptj", "mpt")
"""Families whose query heads all have a key head of their own, whatever is configured."""

_INNER = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder.

    Attributes:
        layers: Number of all layers.
        heads: Number of query heads in an attention layer; 0 without such layers.
        key_heads: Number of its key and value heads.
        head_size: Number of components of a key.
        value_size: Number of components of a value.
        hidden: Number of components of an embedding.
        inner: Number of components inside the MLP.
        vocabulary: Number of tokens.
    """

    layers: int
    heads: int
    key_heads: int
    head_size: int
    value_size: int
    hidden: int
    inner: int
    vocabulary: int


def shape_of(config: PretrainedConfig) -> Shape:
    """The sizes that a configuration of any family gives.

    Raises:
        ModelError: It gives no number of layers, heads or components.
    """
    try:
        heads, hidden = 0, config.hidden_size
        if attention_layers(config):
            heads = config.num_attention_heads
        layers, vocabulary = config.num_hidden_layers, config.vocab_size
    except AttributeError as error:
        raise ModelError(f"{config.model_type}: the configuration gives no {error.name}") from None
    inner = next((size for name in _INNER if (size := getattr(config, name, None))), 4 * hidden)
    head_size = _head_size(config, hidden // heads) if heads else 0
    return Shape(
        layers=layers,
        heads=heads,
        key_heads=_key_heads(config, heads),
        head_size=head_size,
        value_size=int(config.v_head_dim) if _is_compressed(config) else head_size,
        hidden=hidden,
        inner=inner,
        vocabulary=vocabulary,
    )


def _is_compressed(config: PretrainedConfig) -> bool:
    """Whether keys and values of all heads are made of a few numbers (MLA, DeepSeek-V2)."""
    return bool(getattr(config, "kv_lora_rank", None) and getattr(config, "qk_rope_head_dim", None))


def _head_size(config: PretrainedConfig, usual: int) -> int:
    if _is_compressed(config):
        return int(config.qk_nope_head_dim + config.qk_rope_head_dim)
    return getattr(config, "head_dim", None) or usual


def _key_heads(config: PretrainedConfig, heads: int) -> int:
    if not heads:
        return 0
    if config.model_type == "falcon":
        if config.multi_query and not config.new_decoder_architecture:
            return 1
        return int(config.num_kv_heads)
    if config.model_type == "dbrx":
        return int(config.attn_config.kv_n_heads)
    if _is_compressed(config) or config.model_type in _A_KEY_HEAD_EACH:
        return heads
    return getattr(config, "num_key_value_heads", None) or heads


def base_model(model: PreTrainedModel) -> Any:
    """A model without its output projection."""
    base: Any = model.base_model
    # Llama 4 says where the text part is in a model of images and text.
    return base.model if base is model else base


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The layers of a model, and the name that its base model calls them by.

    Raises:
        ModelError: No list of modules has as many members as the configuration has layers.
    """
    base = base_model(model)
    count = model.config.num_hidden_layers
    for name, child in base.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return name, child
    raise ModelError(f"{model.config.model_type}: the model has no list of its {count:,} layers")
