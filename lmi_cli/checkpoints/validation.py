"""Checks of a model folder before transformers opens it, and the folder's fingerprint.

A folder is refused if loading it would run code, read a pickle or reach outside it, or if it claims
sizes that no real model has. Only headers and small files are read, so this takes milliseconds for
any model. Imports the standard library only.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from lmi_cli.errors import ModelError

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))

_CONFIG_LIMIT_BYTES = 4 * 2**20
_INDEX_LIMIT_BYTES = 64 * 2**20
_TOKENIZER_LIMIT_BYTES = 256 * 2**20
# The format allows 100 MB; a model of 100,000 tensors needs 12 MB. Parsed, it takes 20 times that.
_HEADER_LIMIT_BYTES = 16 * 2**20
_MAX_SHARDS = 10_000
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,200}")

_LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 2**17),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim"), 2**20),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), 2**12),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 2**13),
    "head_dim": 2**13,
    "vocab_size": 2**22,
}
_INTEGER_LIMIT = 2**53
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
# These are overridden at loading; anything else might name a repository of kernels.
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Keys that point transformers at another file or repository.
_REFUSED_KEYS = ("transformers_weights", "custom_generate", "tokenizer_file", "vocab_file")

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

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
        _check_config(folder)
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
            digest.update(file.read(min(length, _HEADER_LIMIT_BYTES)))
            span = max(0, path.stat().st_size - _SAMPLE_BYTES)
            for number in range(_SAMPLES):
                file.seek(span * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def tensor_names(folder: Path) -> set[str]:
    """Names of all tensors in the safetensors files of a checked folder."""
    return {name for path in weight_files(folder) for name in safetensors_names(path)}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checked folder, in order."""
    if (folder / _WEIGHTS).exists():
        return [folder / _WEIGHTS]
    index = _read_object(folder / _INDEX, _INDEX_LIMIT_BYTES)
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _check_config(folder: Path) -> None:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} contains no {CONFIG}",
            hint="a model folder holds config.json, *.safetensors and tokenizer.json",
        )
    config = _read_object(path, _CONFIG_LIMIT_BYTES)
    _refuse_code(path, config)
    for key, value in _walk(path, config):
        if key in _REFUSED_KEYS and value is not None:
            raise ModelError(f"{path}: the key {key!r} is refused, as it can name other files")
        if key == "trust_remote_code" and value:
            raise ModelError(f"{path}: a model must not ask to be trusted ('trust_remote_code')")
        if key in _ATTENTION_KEYS and value not in _ATTENTIONS:
            raise ModelError(f"{path}: {key} {str(value)[:80]!r} is refused, as it may load code")
        if isinstance(value, int) and not isinstance(value, bool):
            limit = _LIMITS.get(key, _INTEGER_LIMIT)
            lowest = 0 if key in _LIMITS else -_INTEGER_LIMIT
            if not lowest <= value <= limit:
                shown = f"{value:,}" if abs(value) < 10**20 else "of more than 20 digits"
                raise ModelError(f"{path}: {key} {shown} is not between {lowest:,} and {limit:,}")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path} names no model_type")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter, not a whole model",
            hint="merge the adapter into its base model and save it as safetensors",
        )
    generation = folder / "generation_config.json"
    if generation.exists():
        _refuse_code(generation, _read_object(generation, _CONFIG_LIMIT_BYTES))


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    if any(key == "auto_map" and value for key, value in _walk(path, config)):
        raise ModelError(
            f"{path} wants to run code that comes with the model (auto_map)",
            hint="lmi never runs code from a model repository; use a model of a supported family, "
            "in a form without auto_map",
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
    config = _read_object(path, _CONFIG_LIMIT_BYTES)
    _refuse_code(path, config)
    templates = config.get("chat_template")
    if templates is not None and not isinstance(templates, str):
        # Older transformers used these names as file names.
        entries = templates if isinstance(templates, list) else [templates]
        for entry in entries:
            label = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(label, str) or not _SAFE_NAME.fullmatch(label):
                raise ModelError(f"{path}: chat template name {str(label)[:80]!r} is refused")
    for key, value in _walk(path, config):
        if key.endswith("_file") and isinstance(value, str) and not _SAFE_NAME.fullmatch(value):
            raise ModelError(f"{path}: {key} {value[:80]!r} points outside the folder")


def _check_weights(folder: Path) -> None:
    if (folder / _WEIGHTS).exists():
        safetensors_names(folder / _WEIGHTS)
    elif (folder / _INDEX).exists():
        _check_shards(folder)
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
        if pickles:
            raise ModelError(
                f"{folder} holds only pickled weights ({pickles[0]}), which can run code when read",
                hint="use the model's safetensors form, or convert it in a sandbox you trust",
            )
        raise ModelError(
            f"{folder} contains no {_WEIGHTS}",
            hint="for a GGUF model, give -m the .gguf file itself",
        )


def _check_shards(folder: Path) -> None:
    path = folder / _INDEX
    weight_map = _read_object(path, _INDEX_LIMIT_BYTES).get("weight_map")
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
        differing = sorted(safetensors_names(folder / file) ^ wanted)
        if differing:
            raise ModelError(f"{path} and {file} disagree about tensor {differing[0][:80]!r}")


def safetensors_names(path: Path) -> set[str]:
    """Check the header of a safetensors file and return the names of its tensors.

    Args:
        path: The file.

    Raises:
        ModelError: The header is damaged, or the tensors do not fill the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelError(f"{path} is too short to be a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_HEADER_LIMIT_BYTES, size - 8):
            raise ModelError(f"{path}: its header claims {length:,} bytes (file: {size:,})")
        header = _parse_object(path, file.read(length))
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    position = 0
    for start, end, name in spans:
        if start != position:
            raise ModelError(f"{path}: tensor {name[:80]!r} overlaps another or leaves a gap")
        position = end
    if position != size - 8 - length:
        raise ModelError(f"{path}: its tensors do not fill the file (truncated?)")
    return set(header)


def _span(path: Path, name: str, entry: object) -> tuple[int, int, str]:
    """Return where a tensor begins and ends, having checked it against its type and shape."""
    if isinstance(entry, dict):
        bits = _BITS.get(str(entry.get("dtype")))
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if bits and _is_naturals(shape, 32) and _is_naturals(offsets, 2) and len(offsets) == 2:
            start, end = offsets
            if start <= end and (end - start) * 8 == prod(shape) * bits:
                return start, end, name
    raise ModelError(f"{path}: tensor {name[:80]!r} has an impossible type, shape or offset")


def _is_naturals(value: Any, most: int) -> TypeGuard[list[int]]:
    """Return whether a value is a list of at most ``most`` integers from 0 to 2**63 - 1."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _read_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    size = path.stat().st_size
    if size > limit_bytes:
        raise ModelError(f"{path} is {size:,} bytes long; at most {limit_bytes:,} are accepted")
    return _parse_object(path, path.read_bytes())


def _parse_object(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice")
        return result

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise ModelError(f"{path}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def _walk(path: Path, value: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield every key of a nested object with its value; elements of a list get the list's key."""
    if depth > 32:
        raise ModelError(f"{path}: its JSON is nested too deeply")
    if isinstance(value, dict):
        for name, child in value.items():
            yield name, child
            yield from _walk(path, child, name, depth + 1)
    elif isinstance(value, list):
        for child in value:
            yield key, child
            yield from _walk(path, child, key, depth + 1)
