"""What can be said of a model without loading its weights, and its tokenizer alone.

Reads small files and headers. Imports transformers only for what a configuration leaves open, or
for a tokenizer that is not stored as it is used.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lmi_cli.checkpoints import catalog, entries, gguf, resolve, validation
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.errors import ModelError
from lmi_cli.text.tokenizer import Tokenizer

QUANTIZE = ("none", "int8")
"""What weights may be rounded to beyond their dtype."""

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

# Configurations of this family say all that is asked here; its layers have no windows of their own.
_PLAIN = "llama"
_SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "max_position_embeddings",
    "vocab_size",
)
# Classes that take tokenizer.json as it is.
_AS_STORED = ("TokenizersBackend", "PreTrainedTokenizerFast")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The shape of a model.

    Attributes:
        id: What the user asked for.
        kind: 'catalog', 'hub', 'folder' or 'gguf'.
        identity: See :class:`lmi_cli.checkpoints.resolve.ModelFiles`.
        family: Model type, such as 'llama'.
        trained_length: Tokens.
        native_windows: By layer, its own sliding window in tokens; None for one that sees all.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer.
        head_dim: Components of a key.
        hidden: Components of an embedding.
        vocabulary: Number of tokens.
        dtype: In which the weights are stored.
        weights: Number of weights.
    """

    id: str
    kind: str
    identity: str
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

    @property
    def layers(self) -> int:
        """Number of attention layers."""
        return len(self.native_windows)

    def layer_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one layer caches for a token: a key and a value for each head."""
        return 2 * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]

    def weights_bytes(self, dtype: str, quantize: str = "none") -> int:
        """Bytes of all weights in ``dtype``, or of eight bits each beside the embedding."""
        if quantize == "none":
            return self.weights * DTYPE_BYTES[dtype]
        return self.weights + self.vocabulary * self.hidden * DTYPE_BYTES[dtype]


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


def facts_of_gguf(path: Path, progress: ReportBytes = report_nothing) -> ModelFacts:
    """Read the header of a GGUF file; nothing is converted.

    Raises:
        ModelError: The file is damaged, or says too little.
    """
    header = gguf.read_header(path)

    def number(name: str, *instead: int) -> int:
        value = header.values.get(f"{header.architecture}.{name}", *instead)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{path.name}: the header names no {name}")
        return value

    heads = number("attention.head_count")
    window = header.values.get(f"{header.architecture}.attention.sliding_window")
    if window:
        raise ModelError(
            f"{path.name}: which of its layers have a window of {window} tokens is not in the file",
            hint="use the model's safetensors form",
        )
    total = path.stat().st_size
    return ModelFacts(
        id=str(path),
        kind="gguf",
        identity=entries.sha256_file(path, lambda done: progress(done, total, "reading")),
        family=header.architecture,
        trained_length=number("context_length"),
        native_windows=(None,) * number("block_count"),
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", number("embedding_length") // heads),
        hidden=number("embedding_length"),
        vocabulary=header.array_lengths.get("tokenizer.ggml.tokens", 0),
        dtype="bfloat16",  # what a conversion gives
        weights=header.elements,
    )


def facts_of(files: resolve.ModelFiles) -> ModelFacts:
    """Read the configuration of a checked model folder, and the headers of its weights.

    Raises:
        ModelError: The family is not supported, or the configuration says too little.
    """
    config = json.loads((files.folder / validation.CONFIG).read_bytes())
    if config["model_type"] != _PLAIN or not all(
        isinstance(config.get(name), int) and config[name] > 0 for name in _SIZES
    ):
        config = _completed(files.folder)
    heads = config["num_attention_heads"]
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return ModelFacts(
        id=files.id,
        kind=files.kind,
        identity=files.identity,
        family=config["model_type"],
        trained_length=config["max_position_embeddings"],
        native_windows=config.get("native_windows") or (None,) * config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        hidden=config["hidden_size"],
        vocabulary=config["vocab_size"],
        dtype=dtype if dtype in DTYPE_BYTES else "float32",
        weights=count_weights(files.folder),
    )


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a checked model folder, by the shortest way that gives the same tokens.

    It encodes documents; how prompts begin and end is not known to it.

    Raises:
        ModelError: It cannot be read.
    """
    stored = folder / "tokenizer.json"
    settings = folder / "tokenizer_config.json"
    try:
        named = json.loads(settings.read_bytes()) if settings.exists() else {}
        if (
            stored.exists()
            and named.get("tokenizer_class") in _AS_STORED
            and "add_prefix_space" not in named
        ):
            return Tokenizer(tokenizers.Tokenizer.from_file(str(stored)))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{folder}: the tokenizer cannot be read: {error}") from error
    from lmi_cli.models.preparing import prepare_tokenizer

    return prepare_tokenizer(folder).build(folder)[0]


def _completed(folder: Path) -> dict[str, Any]:
    """The configuration with the defaults of its family."""
    from transformers import AutoConfig

    from lmi_cli.models.families import family_of, native_window, trained_length

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the configuration cannot be read: {error}") from error
    family_of(config)
    trained_length(config)
    layers = range(config.num_hidden_layers)
    settings: dict[str, Any] = config.to_dict()
    return settings | {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None),
        "head_dim": getattr(config, "head_dim", None),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "native_windows": tuple(native_window(config, layer) for layer in layers),
        "dtype": str(getattr(config, "dtype", None) or "float32").removeprefix("torch."),
    }


def count_weights(folder: Path) -> int:
    """Number of weights in all safetensors files of a checked folder."""
    return sum(_count_in(path) for path in validation.weight_files(folder))


def _count_in(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Mapping[str, Any] = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total
