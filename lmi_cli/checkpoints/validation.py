"""Checks of a model folder before transformers opens it, and the folder's fingerprint.

A folder is refused if loading it would run code, read a pickle or reach outside it, if it claims
sizes that no real model has, or if it holds no decoder-only language model. Only headers and small
files are read, so this takes milliseconds for any model. Imports the standard library only.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints import model_types
from lmi_cli.checkpoints.tensors import (
    HEADER_LIMIT_BYTES,
    INDEX,
    INDEX_LIMIT_BYTES,
    WEIGHTS,
    read_header,
)
from lmi_cli.checkpoints.untrusted_json import read_object, walk
from lmi_cli.errors import ModelError

CONFIG = "config.json"
_PICKLES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))

CONFIG_LIMIT_BYTES = 4 * 2**20
_TOKENIZER_LIMIT_BYTES = 256 * 2**20
_MAX_SHARDS = 10_000
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,200}")

_INTEGER_LIMIT = 2**53
_RANGES = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), (1, 1_000)),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), (1, 2**17)),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), (1, 2**20)),
    **dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), (1, 2**12)
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), (0, 2**13)),
    "moe_intermediate_size": (0, 2**20),
    "head_dim": (1, 2**13),
    "sliding_window": (1, _INTEGER_LIMIT),
    "vocab_size": (1, 2**22),
}
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
# These are overridden at loading; anything else might name a repository of kernels.
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Keys that point transformers at another file or repository.
_REFUSED_KEYS = ("transformers_weights", "custom_generate", "tokenizer_file", "vocab_file")

_SAMPLES = 32
_SAMPLE_BYTES = 2**14


def check(folder: Path) -> None:
    """Check that a folder holds a model that can be opened safely.

    Args:
        folder: Holds config.json, safetensors files and tokenizer files.

    Raises:
        ModelError: Something is missing, damaged or refused; the message names the file.
    """
    try:
        check_config(folder)
        _check_tokenizer(folder)
        _check_weights(folder)
    except OSError as error:
        raise ModelError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def fingerprint(folder: Path) -> str:
    """Return a sha256 that changes when the model changes, without reading all of the weights.

    It covers the name and size of every file that transformers may read, the whole content of the
    configuration and tokenizer files, and of each safetensors file the header and 32 evenly spaced
    blocks of 16 KiB. Dates and the folder's own name do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        weights = path.suffix == ".safetensors"
        if not path.is_file() or not (
            weights or path.suffix in (".json", ".jinja", ".txt", ".model")
        ):
            continue
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            if not weights:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            length = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(length, HEADER_LIMIT_BYTES)))
            span = max(0, path.stat().st_size - _SAMPLE_BYTES)
            for number in range(_SAMPLES):
                file.seek(span * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def check_config(folder: Path) -> None:
    """The same for the configuration alone, which may be all that has been downloaded.

    Raises:
        ModelError: It is missing, damaged or refused.
        OSError: It cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} contains no {CONFIG}",
            hint="a model folder holds config.json, *.safetensors and tokenizer.json",
        )
    config = read_object(path, CONFIG_LIMIT_BYTES)
    needless = ("auto_map",) if model_types.has_class(config) else ()
    _refuse_code(path, {key: config[key] for key in config if key not in needless})
    for key, value in walk(path, config):
        if key in _REFUSED_KEYS and value is not None:
            raise ModelError(f"{path}: the key {key!r} is refused, as it can name other files")
        if key == "trust_remote_code" and value:
            raise ModelError(f"{path}: a model must not ask to be trusted ('trust_remote_code')")
        if key in _ATTENTION_KEYS and value not in _ATTENTIONS:
            raise ModelError(f"{path}: {key} {str(value)[:80]!r} is refused, as it may load code")
        if isinstance(value, int) and not isinstance(value, bool):
            lowest, limit = _RANGES.get(key, (-_INTEGER_LIMIT, _INTEGER_LIMIT))
            if not lowest <= value <= limit:
                shown = f"{value:,}" if abs(value) < 10**20 else "of more than 20 digits"
                raise ModelError(f"{path}: {key} {shown} is not between {lowest:,} and {limit:,}")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path} names no model_type")
    model_types.require_readable(path, config)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter, not a whole model",
            hint="merge the adapter into its base model and save it as safetensors",
        )
    generation = folder / "generation_config.json"
    if generation.exists():
        _refuse_code(generation, read_object(generation, CONFIG_LIMIT_BYTES))


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    if any(key == "auto_map" and value for key, value in walk(path, config)):
        raise ModelError(
            f"{path} wants to run code that comes with the model (auto_map)",
            hint="lmi never runs code from a model repository; use a model that transformers "
            "itself has the code of",
        )


def _check_tokenizer(folder: Path) -> None:
    has = {path.name for path in folder.iterdir()}
    if not (
        "tokenizer.json" in has or "tokenizer.model" in has or {"vocab.json", "merges.txt"} <= has
    ):
        raise ModelError(
            f"{folder} contains no tokenizer",
            hint="copy tokenizer.json and tokenizer_config.json of the model into it",
        )
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"):
        if name in has and (folder / name).stat().st_size > _TOKENIZER_LIMIT_BYTES:
            raise ModelError(f"{folder / name} is too large for a tokenizer")
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    config = read_object(path, CONFIG_LIMIT_BYTES)
    _refuse_code(path, config)
    templates = config.get("chat_template")
    if templates is not None and not isinstance(templates, str):
        # Older transformers used these names as file names.
        entries = templates if isinstance(templates, list) else [templates]
        for entry in entries:
            label = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(label, str) or not _SAFE_NAME.fullmatch(label):
                raise ModelError(f"{path}: chat template name {str(label)[:80]!r} is refused")
    for key, value in walk(path, config):
        if key.endswith("_file") and isinstance(value, str) and not _SAFE_NAME.fullmatch(value):
            raise ModelError(f"{path}: {key} {value[:80]!r} points outside the folder")


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).exists():
        read_header(folder / WEIGHTS)
    elif (folder / INDEX).exists():
        _check_shards(folder)
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
        if pickles:
            raise ModelError(
                f"{folder} holds only pickled weights ({pickles[0]}), which can run code when read",
                hint="use the model's safetensors form, or convert it in a sandbox you trust",
            )
        raise ModelError(
            f"{folder} contains no {WEIGHTS}",
            hint="only safetensors files are read, never pickles; for a GGUF model, give -m the "
            ".gguf file itself",
        )


def _check_shards(folder: Path) -> None:
    path = folder / INDEX
    weight_map = read_object(path, INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{path} has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise ModelError(f"{path} names a file that is not safetensors: {str(file)[:80]!r}")
        if not _SAFE_NAME.fullmatch(file):
            raise ModelError(f"{path} names a file outside the folder: {file[:80]!r}")
        shards.setdefault(file, set()).add(tensor)
    if len(shards) > _MAX_SHARDS:
        raise ModelError(f"{path} names {len(shards):,} files")
    for file, wanted in shards.items():
        if not (folder / file).is_file():
            raise ModelError(
                f"{folder} lacks {file}, one of its {len(shards)} weight files",
                hint="download the model again",
            )
        found = {tensor.name for tensor in read_header(folder / file)}
        differing = sorted(found ^ wanted)
        if differing:
            raise ModelError(f"{path} and {file} disagree about tensor {differing[0][:80]!r}")
