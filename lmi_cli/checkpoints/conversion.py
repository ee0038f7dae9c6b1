"""Convert a GGUF file, once, to the folder form that everything else starts from.

The header is read by `gguf.read_header`, which finds the file sound first; what it describes is in
`gguf_settings`, `gguf_vocabulary` and `gguf_architectures`. Blocks of quantized weights stay as
they are where our own decoder runs the model. torch and transformers are imported only for a
conversion.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_cli import memory
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.checkpoints.gguf import KEPT, GgufHeader, GgufTensor, read_header
from lmi_cli.checkpoints.gguf_architectures import ARCHITECTURES, architecture_of, targets
from lmi_cli.checkpoints.gguf_changes import OF_ROWS
from lmi_cli.checkpoints.gguf_description import Architecture, heads_of
from lmi_cli.checkpoints.gguf_settings import settings_of
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

    Blocks of the types in `gguf.KEPT` are copied as they are where our own decoder runs the model.
    All other weights are dequantized in float32 and rounded once, to bfloat16. Tied weights are
    stored once.

    Args:
        path: The file.
        folder: An existing empty folder, which receives config.json, generation_config.json,
            tokenizer.json, tokenizer_config.json, the safetensors files and, for blocks,
            blocks.json.
        progress: Receives how much of the file is done.

    Raises:
        ModelError: The file is damaged, or of a kind that is not supported.
        ResourceError: Too little memory is free; the header tells before any is allocated.
    """
    header = read_header(path)
    architecture = architecture_of(path.name, header)
    check_memory(path, header)
    what = f"converting {path.name}"
    total = path.stat().st_size
    progress(0, total, what)
    try:
        report = lambda share: progress(int(share * total), total, what)  # noqa: E731
        with _quiet_transformers():
            ids = _convert_tokenizer(path, folder, header)
            empty = _empty_model(path, header, ids)
            _write_settings(folder, empty)
            _copy_weights(path, folder, header, architecture, empty, report)
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
        # On settings that make no model, transformers and torch raise anything.
        raise ModelError(
            f"{path.name}: this GGUF file cannot be converted ({_one_line(error)})",
            hint="use the model's safetensors form, or another GGUF of the same model",
        ) from error
    progress(total, total, what)


def keeps_blocks(header: GgufHeader) -> bool:
    """Whether the quantized weights of a file stay as they are."""
    known = ARCHITECTURES.get(header.architecture, ())
    found = next((each for each in known if each.applies(header)), None)
    return found is not None and found.is_plain


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


def _convert_tokenizer(path: Path, folder: Path, header: GgufHeader) -> dict[str, Any]:
    """Write the tokenizer; return the ids of special tokens as settings name them."""
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
    # Those that a configuration class has by default may be none of this vocabulary.
    return dict.fromkeys(generation) | known


def _empty_model(path: Path, header: GgufHeader, ids: dict[str, Any]) -> Any:
    """The model that a file describes, without memory for its weights.

    Raises:
        ModelError: The file holds fewer weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = architecture_of(path.name, header).family
    config = AutoConfig.for_model(family, **(settings_of(path, header) | ids))
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


def _expected(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that make a model, by name; tied ones once."""
    named = dict(model.named_parameters())
    every = dict(model.named_parameters(remove_duplicate=False))
    kept = {name: each for name, each in model.state_dict().items() if name not in every}
    return {name: tuple(tensor.shape) for name, tensor in (named | kept).items()}


def _copy_weights(
    path: Path,
    folder: Path,
    header: GgufHeader,
    architecture: Architecture,
    empty: Any,
    report: Callable[[float], None],
) -> None:
    """Write the weights of a file under the names of the model, blocks as they are where they may.

    Raises:
        ModelError: The weights are not those of the model.
    """
    import torch

    missing = _expected(empty)
    kinds: dict[str, str] = {}
    raw = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    heads = heads_of(header)

    def rows_of(name: str) -> "Tensor":
        tensor = header.tensors[name]
        return raw[tensor.start : tensor.start + tensor.nbytes].view(*tensor.shape[:-1], -1)

    def exact(name: str) -> "Tensor":
        tensor = header.tensors[name]
        return _dequantized(tensor, rows_of(name)).view(tensor.shape)

    def tensors() -> Iterator[tuple[str, "Tensor"]]:
        every = list(targets(path.name, architecture, header))
        for number, (name, sources, change) in enumerate(every):
            report(number / len(every))
            if (absent := set(sources) - header.tensors.keys()) != set():
                raise ModelError(f"{path.name} lacks the tensor {min(absent)}")
            source = header.tensors[sources[0]]
            expected = missing.pop(name, None)
            if expected is None:
                raise ModelError(
                    f"{path.name}: its header describes a model without the tensor {sources[0]}",
                    hint="use the model's safetensors form",
                )
            in_blocks = (
                architecture.is_plain
                and source.kind in KEPT
                and len(source.shape) == 2
                and change in OF_ROWS
            )
            if in_blocks:
                shape, made = source.shape, change([rows_of(sources[0])], heads)
                kinds[name] = KEPT[source.kind]
            else:
                made = change([exact(each) for each in sources], heads).to(torch.bfloat16)
                shape = tuple(made.shape)
            if shape != expected:
                raise ModelError(
                    f"{path.name}: tensor {sources[0]} has the shape {list(source.shape)}, which "
                    f"by the header makes no {name} of the shape {list(expected)}"
                )
            yield name, made

    save_weights(tensors(), folder)
    if missing:
        raise ModelError(f"{path.name} lacks the weights of {min(missing)}")
    if architecture.is_plain:
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


def _write_settings(folder: Path, model: Any) -> None:
    settings = model.config.to_diff_dict()
    settings.pop("_name_or_path", None)
    settings |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
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
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings, and restore its settings afterwards."""
    import warnings

    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
