"""What each layer of a model is: where its positions come from, and what it sees by itself."""

import re
from collections.abc import Iterable

from transformers import PretrainedConfig

from lmi_cli.models.facts import LayerFacts
from lmi_cli.models.families import Family, family_of, is_chunked, native_window
from lmi_cli.models.recurrent import RWKV, attention_layers, recurrent_layers

_SINKS = re.compile(r"\.(\d+)\.(?:\w+\.)?(?:sinks|attention_sink_bias)$")


def layers_of(
    config: PretrainedConfig, tensors: Iterable[str], family: Family | None = None
) -> tuple[LayerFacts, ...]:
    """All layers of a model of a supported family, in order.

    Args:
        config: Its configuration, including the defaults of the family.
        tensors: Names of its tensors, which tell the layers that have learned sinks.
        family: What is known of its family; None for what the table says.
    """
    family = family or family_of(config)
    falls = family.slopes(config) is not None
    with_sinks = {int(found[1]) for name in tensors if (found := _SINKS.search(name))}
    attending, recurrent = set(attention_layers(config)), set(recurrent_layers(config))
    layers = []
    for layer in range(config.num_hidden_layers):
        carries = layer in recurrent or config.model_type == RWKV
        if layer in attending:
            positions = _positions(family.has_rotary(config, layer), falls)
            window, sinks = native_window(config, layer), layer in with_sinks
            chunked = is_chunked(config, layer)
            layers.append(LayerFacts(positions, window, sinks, carries, chunked=chunked))
        else:
            layers.append(LayerFacts(None, recurrent=carries, passive=not carries))
    return tuple(layers)


def _positions(rotary: bool, falls: bool) -> str:
    if rotary:
        return "rope"
    return "alibi" if falls else "none"
