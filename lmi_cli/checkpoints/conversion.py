"""Convert a GGUF file, once, to the folder form that everything else starts from.

transformers reads the file, after `gguf.read_header` has found it sound. torch and transformers are
imported only for a conversion.
"""

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmi_cli import memory
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.checkpoints.gguf import GgufHeader, GgufTensor, read_header
from lmi_cli.disk import is_full
from lmi_cli.errors import ModelError, ResourceError

# Saving copies one shard at a time, so its size bounds the copy.
_SHARD_BYTES = 2**30
_BFLOAT16_BYTES, _FLOAT32_BYTES = 2, 4
# What torch and transformers themselves take, and the file's vocabulary as Python objects.
_OVERHEAD_BYTES = 2**29
# Byte-level vocabularies whose text llama.cpp splits with the GPT-2 expression, as transformers
# does with every name it does not know.
_GPT2_SPLIT = frozenset(
    ("default", "gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2", "mellum")
)
# llama.cpp splits these vocabularies' text at \p{N} first, then with the GPT-2 expression.
# transformers 5.23 knows none of the names and would use the GPT-2 expression alone, so that two
# spaces before a digit become other tokens than in training.
_DIGITS_FIRST = frozenset(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
)


def convert(path: Path, folder: Path, progress: ReportBytes = report_nothing) -> None:
    """Convert a GGUF file to a folder that `from_pretrained` accepts.

    The weights are dequantised in float32 and rounded once, to bfloat16: every dtype and every
    baseline starts from these rounded weights. Tied weights are stored once.

    Args:
        path: The file.
        folder: An existing empty folder, which receives config.json, generation_config.json,
            tokenizer.json, tokenizer_config.json and the safetensors files.
        progress: Receives how much of the file is done.

    Raises:
        ModelError: The file is damaged, or transformers cannot read it.
        ResourceError: Too little memory is free; the header tells before any is allocated.
    """
    header = read_header(path)
    check_memory(path, header)
    what = f"converting {path.name}"
    total = path.stat().st_size
    progress(0, total, what)
    try:
        with _quiet_transformers(lambda share: progress(int(share * total), total, what)):
            _convert_tokenizer(path, folder, header)
            _convert_weights(path, folder, header)
    except (ModelError, OSError):
        raise
    except MemoryError as error:
        raise ResourceError(
            f"memory ran out while converting {path.name}",
            hint="free some memory, or use a smaller model or its safetensors form",
        ) from error
    except Exception as error:
        if is_full(error):
            raise ResourceError(f"{folder} cannot be written: {_one_line(error)}") from error
        # On what they do not support, transformers and gguf raise anything, such as KeyError.
        raise ModelError(
            f"{path.name}: transformers cannot convert this GGUF file ({_one_line(error)})",
            hint="use the model's safetensors form, or another GGUF of the same model",
        ) from error
    progress(total, total, what)


def check_memory(path: Path, header: GgufHeader) -> None:
    """Check that the dequantised model fits in the memory that is free now.

    Raises:
        ResourceError: It does not; the message gives both figures.
    """
    weights = header.elements * _BFLOAT16_BYTES
    # One tensor at a time is in float32, in two copies if its rows are permuted.
    needed = (
        weights
        + min(weights, _SHARD_BYTES)
        + 2 * header.largest_tensor_elements * _FLOAT32_BYTES
        + _OVERHEAD_BYTES
    )
    memory.require(
        needed,
        f"converting {path.name} ({weights / 1e9:.1f} GB of dequantised weights)",
        "free some memory, or use a smaller model or its safetensors form",
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _convert_tokenizer(path: Path, folder: Path, header: GgufHeader) -> None:
    from transformers import AutoTokenizer

    split = header.values.get("tokenizer.ggml.pre", "default")
    if header.values.get("tokenizer.ggml.model") == "gpt2":
        _check_split(path, str(split))
    tokenizer = AutoTokenizer.from_pretrained(
        str(path.parent), gguf_file=path.name, trust_remote_code=False
    )
    backend = tokenizer.backend_tokenizer
    if split in _DIGITS_FIRST:
        from tokenizers import pre_tokenizers

        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        # The class that takes tokenizer.json as it is, whatever the model type.
        "tokenizer_class": "TokenizersBackend",
        "add_bos_token": _adds_bos(header),
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template"):
        value = getattr(tokenizer, name, None)
        if isinstance(value, str):
            settings[name] = value
    _write_json(folder / "tokenizer_config.json", settings)


def _check_split(path: Path, split: str) -> None:
    """Refuse a vocabulary for which text would silently be split differently than in training."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    if split not in _DIGITS_FIRST | _GPT2_SPLIT | mapping.GGUF_PRE_TOKENIZER_SPLITS.keys():
        raise ModelError(
            f"{path.name}: its tokenizer splits text in an unknown way ({split!r})",
            hint="use the model's safetensors form, which comes with its own tokenizer.json",
        )


def _adds_bos(header: GgufHeader) -> bool:
    # With a sentencepiece vocabulary, llama.cpp adds BOS unless the file says otherwise.
    default = header.values.get("tokenizer.ggml.model") == "llama"
    return bool(header.values.get("tokenizer.ggml.add_bos_token", default))


def _convert_weights(path: Path, folder: Path, header: GgufHeader) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    source = {"gguf_file": path.name, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(str(path.parent), **source)
    scaled = _scaled_rope(path, header, getattr(config, "rope_parameters", None) or {})
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", trust_remote_code=False
        )
    # A file may describe a larger model than it holds; the rest would be initialised at random.
    described = sum(parameter.numel() for parameter in empty.parameters())
    if described > header.elements:
        raise ModelError(
            f"{path.name} describes a model of {described:,} weights but holds {header.elements:,}"
        )
    # Each tensor is dequantised in float32 and rounded before the next one is read, so that the
    # whole model is never in memory in float32.
    model, loading = AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        dtype=torch.bfloat16,
        attn_implementation="eager",
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        **source,
    )
    if loading["missing_keys"]:
        raise ModelError(f"{path.name} lacks the weights of {min(loading['missing_keys'])}")
    _save_weights(model.state_dict(), folder)
    settings = model.config.to_diff_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    settings |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    if scaled is not None:
        settings["rope_parameters"] = scaled
    _write_json(folder / "config.json", settings)
    _write_json(folder / "generation_config.json", _generation_settings(header))


def _generation_settings(header: GgufHeader) -> dict[str, Any]:
    """Return the ids that begin, end and pad a text; a chat's end of turn ends it too."""
    ids = {
        name: header.values.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "padding", "eos", "eot", "eom")
    }
    ends = [ids[name] for name in ("eos", "eot", "eom") if ids[name] is not None]
    ends = list(dict.fromkeys(ends))
    settings = {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids["padding"],
    }
    return {name: value for name, value in settings.items() if value is not None}


def _scaled_rope(path: Path, header: GgufHeader, rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rotary parameters of a model with scaled frequencies, or None if they are plain.

    transformers 5.23 reads the base frequency of a GGUF file but not its scaling, which would give
    a model that runs but is wrong. Linear scaling and that of Llama 3.1 are added here.

    Raises:
        ModelError: The file has another kind of scaling.
    """
    prefix = f"{header.architecture}.rope.scaling"
    kind = header.values.get(f"{prefix}.type", "none")
    factor = header.values.get(f"{prefix}.factor")
    factors = header.tensors.get("rope_freqs.weight")
    if rope.get("rope_type", "default") != "default":
        return None  # transformers read it
    if kind == "none" and factors is None and "rope_factors_long.weight" not in header.tensors:
        return None
    nested = any(isinstance(value, dict) for value in rope.values())  # by kind of layer
    if kind == "linear" and factors is None and isinstance(factor, float) and not nested:
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "none" and factors is not None and not nested:
        llama3 = _llama3_rope(path, factors, rope)
        if llama3 is not None:
            return llama3
    raise ModelError(
        f"{path.name}: its scaling of rotary frequencies is not supported in GGUF files",
        hint="use the model's safetensors form, whose config.json describes it in full",
    )


def _llama3_rope(path: Path, factors: GgufTensor, rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return Llama 3's parameters if they give exactly the factors stored in the file."""
    if factors.kind != 0 or factors.elements > 2**13:
        return None
    with path.open("rb") as file:
        file.seek(factors.start)
        stored = struct.unpack(f"<{factors.elements}f", file.read(4 * factors.elements))
    factor, low, high, original = max(stored), 1.0, 4.0, 8192
    if not 1.0 <= factor < 1e6:
        return None
    for index, value in enumerate(stored):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / factors.elements)
        share = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        if not math.isclose(value, 1 / ((1 - share) / factor + share), rel_tol=1e-3):
            return None
    return rope | {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _save_weights(state: dict[str, Any], folder: Path) -> None:
    """Write the weights in shards of 1 GiB; of tensors that share memory, only the first."""
    from safetensors.torch import save_file

    shards: list[dict[str, Any]] = [{}]
    seen: set[int] = set()
    shard_bytes = total = 0
    for name, tensor in state.items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if shards[-1] and shard_bytes + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            shard_bytes = 0
        shards[-1][name] = tensor.contiguous()
        shard_bytes += tensor.nbytes
        total += tensor.nbytes
    metadata = {"format": "pt"}
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata)
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet_transformers(report: Callable[[float], None]) -> Iterator[None]:
    """Silence transformers' warnings and progress bars, and restore its settings afterwards.

    Args:
        report: Receives the share of the tensors that have been dequantised.
    """
    import warnings

    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging

    def counted(tensors: list[Any], **_: object) -> Iterator[Any]:
        for number, tensor in enumerate(tensors):
            report(number / len(tensors))
            yield tensor

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # transformers' own switch does not cover this bar.
    bar, reading.tqdm = reading.tqdm, counted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reading.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
