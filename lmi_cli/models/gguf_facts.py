"""The shape of a model by the header of its GGUF file, which is not converted.

Imports neither torch nor transformers.
"""

from collections.abc import Set
from pathlib import Path

from lmi_cli.checkpoints import conversion, gguf
from lmi_cli.checkpoints.gguf_architectures import architecture_of, layer_tensors
from lmi_cli.checkpoints.gguf_settings import native_windows, settings_of
from lmi_cli.checkpoints.gguf_vocabulary import read_vocabulary
from lmi_cli.errors import ModelError
from lmi_cli.models.facts import LayerFacts, ModelFacts, block_bytes
from lmi_cli.models.trained_length import trained_length_of

_CONVOLUTIONS = frozenset(("ssm_conv1d.weight", "shortconv.conv.weight"))
_RECURRENT = ("ssm_", "shortconv.")
_FLOAT32_BYTES = 4


def facts_of_gguf(path: Path) -> ModelFacts:
    """Read the header of a GGUF file; nothing is converted.

    Raises:
        ModelError: The file is damaged, is of a kind that is not supported, or says too little.
    """
    header = gguf.read_header(path)
    family, settings = architecture_of(path.name, header).family, settings_of(path, header)
    read_vocabulary(path, header)  # which refuses what no conversion would take
    tensors = layer_tensors(path.name, header)
    windows = native_windows(path, header, len(tensors))
    layers = tuple(map(_layer, tensors, windows))
    attending = tuple(layer.window for layer in layers if layer.attends)
    length = trained_length_of(settings | {"model_type": family})
    hidden = _number(path, header, "embedding_length")
    heads = _number(path, header, "attention.head_count") if attending else 0
    size = _number(path, header, "attention.key_length", hidden // heads) if heads else 0
    return ModelFacts(
        family=family,
        trained_length=length.tokens,
        native_windows=attending,
        heads=heads,
        kv_heads=_number(path, header, "attention.head_count_kv", heads) if heads else 0,
        head_dim=size,
        hidden=hidden,
        vocabulary=settings["vocab_size"],
        dtype="bfloat16",  # what a conversion gives
        weights=header.elements,
        tied=settings["tie_word_embeddings"],
        block_bytes=block_bytes(
            (gguf.KEPT.get(tensor.kind, ""), tensor.elements) for tensor in header.tensors.values()
        )
        if conversion.keeps_blocks(header)
        else 0,
        length=length,
        all_layers=layers,
        recurrent_bytes=_state_bytes(header, tensors),
    )


def _layer(tensors: Set[str], window: int | None) -> LayerFacts:
    """A layer by the names of its tensors; how it knows positions, they do not tell."""
    recurrent = any(name.startswith(_RECURRENT) for name in tensors)
    # Linear attention calls its projections attn_qkv as well.
    attends = "attn_q.weight" in tensors or ("attn_qkv.weight" in tensors and not recurrent)
    if not attends:
        return LayerFacts(None, recurrent=recurrent, passive=not recurrent)
    return LayerFacts(None, window, sinks="attn_sinks.weight" in tensors)


def _number(path: Path, header: gguf.GgufHeader, name: str, *instead: int) -> int:
    """The value of a key, or the largest of one that has a value for each layer."""
    key = f"{header.architecture}.{name}"
    if (listed := header.arrays.get(key)) is not None:
        value: gguf.Scalar | None = max(gguf.read_numbers(path, listed), default=0)
    else:
        value = header.values.get(key, *instead)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path.name}: its header does not give {key}")
    return value


def _state_bytes(header: gguf.GgufHeader, layers: list[Set[str]]) -> int:
    """Bytes of what recurrent layers carry: the inputs of a convolution, and a matrix."""
    prefix = header.architecture
    sizes = (header.values.get(f"{prefix}.ssm.{name}_size") for name in ("state", "inner"))
    state, inner = (size if isinstance(size, int) else 0 for size in sizes)
    total = 0
    for at, tensors in enumerate(layers):
        for name in tensors & _CONVOLUTIONS:
            total += header.tensors[f"blk.{at}.{name}"].elements
            total += state * inner if name.startswith("ssm_") else 0
    return total * _FLOAT32_BYTES
