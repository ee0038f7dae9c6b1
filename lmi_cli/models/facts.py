"""The shape of a model; its weights stay unread.

Imports neither torch nor transformers.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.checkpoints import catalog, validation
from lmi_cli.checkpoints.tensors import stored_tensors
from lmi_cli.models.trained_length import TrainedLength
from lmi_cli.native.kinds import GGUF_KINDS, ROUNDED

QUANTIZE = ("auto", "none", "blocks", "int8", "int4")
"""How linear layers keep their weights: in the dtype, in the blocks of a GGUF file, or rounded."""

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


POSITIONS = ("rope", "alibi", "none")
"""How a layer knows the distance of tokens: by rotation, by a bias, or not at all."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What one layer of a model is.

    Attributes:
        positions: One of ``POSITIONS``; None for a layer without attention, or where the header of
            a GGUF file does not say it.
        window: Its own sliding window or chunk in tokens; None if it sees everything.
        sinks: Whether its softmax has a learned sink in each head.
        recurrent: Whether it carries a state of constant size from token to token.
        passive: Whether it has neither attention nor a state, as a layer that is an MLP alone.
        chunked: Whether it attends within chunks of ``window`` tokens.
    """

    positions: str | None = "rope"
    window: int | None = None
    sinks: bool = False
    recurrent: bool = False
    passive: bool = False
    chunked: bool = False

    @property
    def attends(self) -> bool:
        """Whether the layer has attention."""
        return self.positions is not None or not (self.recurrent or self.passive)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The shape of a model.

    Attributes:
        family: Model type, such as 'llama'.
        trained_length: Tokens.
        native_windows: By attention layer, its own sliding window or chunk in tokens; None for one
            that sees all.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer.
        head_dim: Components of a key.
        hidden: Components of an embedding.
        vocabulary: Number of tokens.
        dtype: In which the weights are stored.
        weights: Number of weights.
        tied: Whether the output projection is the embedding.
        block_bytes: Bytes of all weights where those in blocks of a GGUF file stay in blocks; 0 if
            there are none.
        length: The trained length, and where it comes from; None for what is only a length.
        all_layers: See :attr:`every_layer`; empty where all layers have attention alone.
        recurrent_bytes: Bytes that all recurrent layers carry from token to token, in float32; 0
            for a model without such layers.
        value_dim: Components of a value; 0 if it has as many as a key.
    """

    family: str
    trained_length: int
    native_windows: tuple[int | None, ...]
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    dtype: str
    weights: int
    tied: bool = True
    block_bytes: int = 0
    length: TrainedLength | None = None
    all_layers: tuple[LayerFacts, ...] = ()
    recurrent_bytes: int = 0
    value_dim: int = 0

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The facts of which :func:`dataclasses.asdict` made ``stored``, by way of JSON.

        Raises:
            KeyError, TypeError, ValueError: They are damaged.
        """
        length = stored["length"]
        changed = {
            "native_windows": tuple(stored["native_windows"]),
            "length": None if length is None else TrainedLength(**length),
            "all_layers": tuple(LayerFacts(**layer) for layer in stored["all_layers"]),
        }
        return cls(**{**stored, **changed})

    @property
    def every_layer(self) -> tuple[LayerFacts, ...]:
        """All layers in order, those without attention included."""
        return self.all_layers or tuple(LayerFacts(None, at) for at in self.native_windows)

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers carry a state from token to token."""
        return any(layer.recurrent for layer in self.all_layers)

    @property
    def layers(self) -> list[LayerSpec]:
        """The attention layers, without their frequencies, counted among themselves."""
        attending = [layer for layer in self.every_layer if layer.attends]
        return [
            LayerSpec(index, None, window, self.kv_heads, chunked=layer.chunked)
            for index, (window, layer) in enumerate(
                zip(self.native_windows, attending, strict=True)
            )
        ]

    @property
    def pair_dim(self) -> int:
        """Components of a key and its value together."""
        return self.head_dim + (self.value_dim or self.head_dim)

    def layer_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one layer caches for a token: a key and a value for each head."""
        return self.kv_heads * self.pair_dim * DTYPE_BYTES[dtype]

    def weights_bytes(self, dtype: str, quantize: str = "none") -> int:
        """Bytes of all weights in ``dtype``, or as ``quantize`` says; see :data:`QUANTIZE`."""
        if quantize == "blocks":
            return self.block_bytes
        if quantize == "none":
            return self.weights * DTYPE_BYTES[dtype]
        outer = self.vocabulary * self.hidden * (1 if self.tied else 2)
        few, many = ROUNDED[4].bits_per_weight, ROUNDED[8].bits_per_weight
        inner = (self.weights - outer) * (few if quantize == "int4" else many)
        return int(inner + outer * many) // 8


def block_bytes(kinds: Iterable[tuple[str, int]]) -> int:
    """See :attr:`ModelFacts.block_bytes`.

    Args:
        kinds: Type and number of weights of each tensor; what is in no blocks becomes bfloat16.
    """
    bits = {kind.name: kind.bits_per_weight for kind in GGUF_KINDS.values()}
    listed = list(kinds)
    if not any(kind in bits for kind, _ in listed):
        return 0
    return int(sum(weights * bits.get(kind, 16) for kind, weights in listed)) // 8


def names_model(argument: str) -> bool:
    """Whether an argument that could be a document names a model: known, a GGUF file, a folder."""
    path = Path(argument)
    try:
        if argument.lower() in catalog.CATALOG or (path.suffix == ".gguf" and path.is_file()):
            return True
        config = json.loads((path / validation.CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and isinstance(config.get("model_type"), str)


def count_weights(folder: Path) -> tuple[int, int]:
    """Number of weights in all files of a checked folder, and :attr:`ModelFacts.block_bytes`."""
    tensors = [(tensor.dtype, prod(tensor.shape)) for tensor in stored_tensors(folder).values()]
    return sum(count for _, count in tensors), block_bytes(tensors)
