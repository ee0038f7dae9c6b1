"""From a checked folder of model files to a model on its devices.

On the CPU a plain decoder is run by our own code, which starts in a fraction of the time that
importing transformers takes; every other model and placement goes through transformers and
accelerate.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lmi_cli import memory
from lmi_cli.checkpoints import validation
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.errors import ModelError, ResourceError, UsageError
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.facts import QUANTIZE, count_weights
from lmi_cli.models.language_model import LanguageModel
from lmi_cli.models.prepared import recall, remember
from lmi_cli.native import compiling, cpu, library
from lmi_cli.text.tokenizer import Tokenizer

_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights go and in which dtype.

    Attributes:
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        device: ``auto`` or a torch device; ignored where ``device_map`` is given.
        device_map: A map name that accelerate knows, such as ``auto``.
        max_memory: Limit by device (``0``, ``cpu``), as accelerate reads it (``"2GiB"``).
        offload_folder: For weights that fit no device.
        quantize: ``none``, or ``int8`` to keep eight bits of each weight of a linear layer.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    max_memory: dict[int | str, str] | None = None
    offload_folder: Path | None = None
    quantize: str = "none"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to read: files, weights, tokenizer and template."""

    files: ModelFiles
    lm: LanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate | None


def load(files: ModelFiles, placement: Placement = Placement()) -> Loaded:
    """Load weights and tokenizer; the family and the self-check come first.

    Raises:
        ModelError: The family is unknown, the self-check fails, or a file cannot be read.
        ResourceError: The weights do not fit.
        UsageError: The placement cannot be.
    """
    if placement.quantize not in QUANTIZE:
        raise UsageError(
            f"quantize {placement.quantize!r} is not known", hint="one of " + ", ".join(QUANTIZE)
        )
    devices = _devices(placement)
    prepared = recall(files)
    if prepared is None:
        from lmi_cli.models.preparing import prepare

        prepared = prepare(files.folder)
        remember(files, prepared)
    quantize = placement.quantize == "int8"
    on_cpu = devices == {"device_map": {"": torch.device("cpu")}}
    dtype = _dtype(placement, files.folder)
    if on_cpu:
        memory.require(
            count_weights(files.folder) * (1 if quantize else dtype.itemsize),
            f"{files.id} in {'int8' if quantize else str(dtype).removeprefix('torch.')}",
            "a smaller model or dtype, or --device-map auto with --offload-folder",
        )
        cpu.keep_freed_memory()
        if dtype == torch.bfloat16:
            compiling.use_library()
    plain = prepared.blueprint if on_cpu else None
    if quantize and not (plain is not None and dtype == torch.bfloat16 and library.is_open()):
        raise UsageError(
            f"{files.id}: weights in eight bits are for plain decoders (Llama, Mistral, Qwen) in "
            "bfloat16, on a processor with AVX512-BF16 and a C compiler",
            hint="leave --quantize out",
        )
    try:
        if plain is not None:
            weights = _weights(files.folder, dtype)
            lm: LanguageModel = Decoder(plain, weights, quantize=quantize)
        else:
            from lmi_cli.models.pretrained import load_pretrained

            lm = load_pretrained(files.folder, dtype, devices)
        tokenizer, template = prepared.tokenizer.build(files.folder)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{files.id} does not fit its device", hint="try --device-map auto or --max-memory"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{files.id} cannot be loaded: {_first_line(error)}") from error
    return Loaded(files, lm, tokenizer, template)


def _weights(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors of a checked folder by name, in ``dtype``; mapped, not read, where they can be.

    Raises:
        SafetensorError: A file is damaged.
    """
    files = [load_file(path) for path in validation.weight_files(folder)]
    return {name: tensor.to(dtype) for file in files for name, tensor in file.items()}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _dtype(placement: Placement, folder: Path) -> torch.dtype:
    if placement.dtype in _DTYPES:
        return _DTYPES[placement.dtype]
    if placement.dtype != "auto":
        raise UsageError(
            f"dtype {placement.dtype!r} is not known", hint="one of auto, " + ", ".join(_DTYPES)
        )
    if _device(placement).type == "cpu":
        return torch.bfloat16 if cpu.computes_bfloat16() else torch.float32
    config = json.loads((folder / validation.CONFIG).read_bytes())
    stored = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    return torch.bfloat16 if stored is torch.float32 else stored


def _device(placement: Placement) -> torch.device:
    if placement.device != "auto":
        try:
            device = torch.device(placement.device)
            if device.type == "meta":
                raise RuntimeError("it holds no data")
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(
                f"device {placement.device!r} cannot be used: {_first_line(error)}",
                hint="--device auto takes what this machine has",
            ) from error
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _devices(placement: Placement) -> dict[str, Any]:
    if placement.device_map is None and placement.max_memory is None:
        return {"device_map": {"": _device(placement)}}
    name = placement.device_map or "auto"
    if name not in _DEVICE_MAPS:
        raise UsageError(
            f"device map {name!r} is not known", hint="one of " + ", ".join(_DEVICE_MAPS)
        )
    arguments: dict[str, Any] = {"device_map": name}
    if placement.max_memory is not None:
        for device, limit in placement.max_memory.items():
            _check_size(device, limit)
        arguments["max_memory"] = placement.max_memory
    if placement.offload_folder is not None:
        arguments["offload_folder"] = str(placement.offload_folder)
    return arguments


def _check_size(device: int | str, limit: str) -> None:
    from accelerate.utils import convert_file_size_to_int

    try:
        convert_file_size_to_int(limit)
    except ValueError as error:
        raise UsageError(
            f"max-memory {device}={limit}: {limit!r} is not a size such as 6GiB or 500MB"
        ) from error
