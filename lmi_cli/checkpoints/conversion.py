"""Convert a GGUF file, once, to the folder form that everything else starts from.

transformers reads the file, after `gguf.read_header` has found it sound. Blocks of quantized
weights stay as they are where the tensors need no more than another name. torch and transformers
are imported only for a conversion.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_cli import memory
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.checkpoints.gguf import KEPT, GgufHeader, GgufTensor, read_header
from lmi_cli.checkpoints.gguf_names import IGNORED, halves_of, name_of, norm_offset
from lmi_cli.checkpoints.gguf_settings import unread_settings
from lmi_cli.checkpoints.gguf_vocabulary import (
    read_vocabulary,
    tokenizer_of,
    tokenizer_settings,
)
from lmi_cli.checkpoints.tensors import BLOCKS, INDEX, WEIGHTS
from lmi_cli.disk import is_full
from lmi_cli.errors import ModelError, ResourceError

if TYPE_CHECKING:
    from torch import Tensor

# Saving copies one shard at a time, so its size bounds the copy.
_SHARD_BYTES = 2**30
_BFLOAT16_BYTES, _FLOAT32_BYTES = 2, 4
# What torch and transformers themselves take, and the file's vocabulary as Python objects.
_OVERHEAD_BYTES = 2**29


def convert(path: Path, folder: Path, progress: ReportBytes = report_nothing) -> None:
    """Convert a GGUF file to a folder that `from_pretrained` accepts.

    Of the architectures in `gguf_names`, blocks of the types in `gguf.KEPT` are copied as they are.
    All other weights are dequantized in float32 and rounded once, to bfloat16. Tied weights are
    stored once.

    Args:
        path: The file.
        folder: An existing empty folder, which receives config.json, generation_config.json,
            tokenizer.json, tokenizer_config.json, the safetensors files and, for blocks,
            blocks.json.
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
        report = lambda share: progress(int(share * total), total, what)  # noqa: E731
        with _quiet_transformers(report):
            _convert_tokenizer(path, folder, header)
            if keeps_blocks(header):
                _copy_weights(path, folder, header, report)
            else:
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
            f"{path.name}: this GGUF file cannot be converted ({_one_line(error)})",
            hint="use the model's safetensors form, or another GGUF of the same model",
        ) from error
    progress(total, total, what)


def keeps_blocks(header: GgufHeader) -> bool:
    """Whether the quantized weights of a file stay as they are."""
    return all(
        name in IGNORED or name_of(header.architecture, name) is not None for name in header.tensors
    )


def converted_bytes(header: GgufHeader) -> int:
    """The length of all weights after the conversion."""
    if not keeps_blocks(header):
        return header.elements * _BFLOAT16_BYTES
    return sum(
        tensor.nbytes if tensor.kind in KEPT else tensor.elements * _BFLOAT16_BYTES
        for tensor in header.tensors.values()
    )


def check_memory(path: Path, header: GgufHeader) -> None:
    """Check that what a conversion needs fits in the memory that is free now.

    Raises:
        ResourceError: It does not; the message gives both figures.
    """
    weights = converted_bytes(header)
    # One tensor at a time is in float32, in two copies if its rows are permuted.
    needed = (
        (0 if keeps_blocks(header) else weights)
        + 2 * min(weights, _SHARD_BYTES)
        + 2 * header.largest_tensor_elements * _FLOAT32_BYTES
        + _OVERHEAD_BYTES
    )
    memory.require(
        needed,
        f"converting {path.name} ({weights / 1e9:.1f} GB of weights)",
        "free some memory, or use a smaller model or its safetensors form",
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _convert_tokenizer(path: Path, folder: Path, header: GgufHeader) -> None:
    vocabulary = read_vocabulary(path, header)
    tokenizer_of(path, header, vocabulary).save(str(folder / "tokenizer.json"))
    settings = tokenizer_settings(path, header, vocabulary)
    _write_json(folder / "tokenizer_config.json", settings)
    ids, ends = vocabulary.specials, vocabulary.ends
    generation = {
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.get("padding"),
    }
    known = {name: value for name, value in generation.items() if value is not None}
    _write_json(folder / "generation_config.json", known)


def _empty_model(path: Path, header: GgufHeader) -> Any:
    """The model that a file describes, without memory for its weights.

    Raises:
        ModelError: The file holds fewer weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        str(path.parent), gguf_file=path.name, trust_remote_code=False
    )
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
    return empty


def _copy_weights(
    path: Path, folder: Path, header: GgufHeader, report: Callable[[float], None]
) -> None:
    """Write the weights of a file under other names, their blocks as they are."""
    import torch

    empty = _empty_model(path, header)
    config = empty.config
    missing = {name: tuple(weight.shape) for name, weight in empty.named_parameters()}
    kinds: dict[str, str] = {}
    _write_settings(path, folder, header, empty)
    raw = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}

    def tensors() -> Iterator[tuple[str, "Tensor"]]:
        for number, (source, tensor) in enumerate(header.tensors.items()):
            report(number / len(header.tensors))
            if source in IGNORED:
                continue
            name = name_of(header.architecture, source)
            expected = missing.pop(name, None) if name else None
            if name is None or expected is None:
                raise ModelError(
                    f"{path.name}: its header describes a model without the tensor {source}",
                    hint="use the model's safetensors form",
                )
            if tensor.shape != expected:
                raise ModelError(
                    f"{path.name}: tensor {source} has the shape {list(tensor.shape)}, but by the "
                    f"header it is {list(expected)}"
                )
            rows = raw[tensor.start : tensor.start + tensor.nbytes].view(tensor.shape[0], -1)
            if (count := halves_of(header.architecture, source)) is not None:
                # Components 2p and 2p + 1 of a head become p and p + size / 2.
                rows = rows.view(heads[count], -1, 2, rows.shape[1]).transpose(1, 2)
                rows = rows.reshape(tensor.shape[0], -1)
            if tensor.kind in KEPT and len(tensor.shape) == 2:
                kinds[name] = KEPT[tensor.kind]
                yield name, rows
            else:
                exact = _dequantized(tensor, rows).view(tensor.shape)
                if offset := norm_offset(header.architecture, source):
                    exact = exact - offset
                yield name, exact.to(torch.bfloat16)

    save_weights(tensors(), folder)
    if missing:
        raise ModelError(f"{path.name} lacks the weights of {min(missing)}")
    _write_json(folder / BLOCKS, kinds)


def _dequantized(tensor: GgufTensor, rows: "Tensor") -> "Tensor":
    """The weights in some rows of bytes, in the dtype of the file or in float32."""
    import gguf
    import torch

    floats = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
    if tensor.kind in floats:
        return rows.contiguous().view(floats[tensor.kind])
    kind = gguf.GGMLQuantizationType(tensor.kind)
    return torch.from_numpy(gguf.quants.dequantize(rows.numpy(), kind))


def _convert_weights(path: Path, folder: Path, header: GgufHeader) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    _write_settings(path, folder, header, _empty_model(path, header))
    # Each tensor is dequantized in float32 and rounded before the next one is read, so that the
    # whole model is never in memory in float32.
    model, loading = AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        dtype=torch.bfloat16,
        attn_implementation="eager",
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        gguf_file=path.name,
        trust_remote_code=False,
    )
    if loading["missing_keys"]:
        raise ModelError(f"{path.name} lacks the weights of {min(loading['missing_keys'])}")
    named = model.state_dict().items()
    by_place = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(named)}
    save_weights(reversed(by_place.values()), folder)


def _write_settings(path: Path, folder: Path, header: GgufHeader, model: Any) -> None:
    """Write what the configuration says; what cannot be is refused before weights are written.

    Raises:
        ModelError: The file scales its rotary frequencies in an unsupported way.
    """
    added = unread_settings(path, header, getattr(model.config, "rope_parameters", None) or {})
    settings = model.config.to_diff_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    settings |= {"architectures": [type(model).__name__], "dtype": "bfloat16"} | added
    _write_json(folder / "config.json", settings)


def save_weights(tensors: "Iterable[tuple[str, Tensor]]", folder: Path) -> None:
    """Write tensors in shards of 1 GiB; no more than one of them is in memory."""
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    shard_bytes = total = number = 0

    def save() -> None:
        nonlocal number, shard_bytes
        number += 1
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()
        shard_bytes = 0

    for name, tensor in tensors:
        if shard and shard_bytes + tensor.nbytes > _SHARD_BYTES:
            save()
        shard[name] = tensor.contiguous()
        shard_bytes += tensor.nbytes
        total += tensor.nbytes
    save()
    if number == 1:
        (folder / "model-00001.safetensors").rename(folder / WEIGHTS)
        return
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / INDEX, index)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet_transformers(report: Callable[[float], None]) -> Iterator[None]:
    """Silence transformers' warnings and progress bars, and restore its settings afterwards.

    Args:
        report: Receives the share of the tensors that have been dequantized.
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
