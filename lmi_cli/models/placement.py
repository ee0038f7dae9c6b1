"""Where the weights of a model go, and in which precision: the request and what follows from it.

Imports torch only to ask about an accelerator, and accelerate only to check a size.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi_cli.errors import UsageError
from lmi_cli.models.facts import DTYPE_BYTES, QUANTIZE
from lmi_cli.native import cpu

MOST_THREADS = 256
DTYPES = ("bfloat16", "float16", "float32")
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
# Device files of the drivers without which torch finds no accelerator on Linux.
_DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "kfd", "dxg")


@dataclass(frozen=True, slots=True)
class Precision:
    """The number format in which a model computes.

    Attributes:
        dtype: A key of ``DTYPE_BYTES``.
        quantize: One of ``QUANTIZE`` other than ``auto``.
    """

    dtype: str
    quantize: str = "none"

    @property
    def name(self) -> str:
        """Both, as in ``bfloat16+int8``."""
        return self.dtype if self.quantize == "none" else f"{self.dtype}+{self.quantize}"

    @property
    def itemsize(self) -> int:
        """Bytes of a key's component."""
        return DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Placement:
    """What the user asked for.

    Attributes:
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        device: ``auto`` or a torch device; ignored where ``device_map`` is given.
        device_map: A map name that accelerate knows, such as ``auto``.
        max_memory: Limit by device (``0``, ``cpu``), as accelerate reads it (``"2GiB"``).
        offload_folder: For weights that fit no device.
        quantize: One of ``QUANTIZE``; ``auto`` keeps blocks of a GGUF file where our own decoder
            computes in C.
        threads: Number of threads that compute; None for as many as are of use.

    Raises:
        UsageError: A name is not known.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    max_memory: Mapping[int | str, str] | None = None
    offload_folder: Path | None = None
    quantize: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("dtype", self.dtype, ("auto", *DTYPES)),
            ("quantize", self.quantize, QUANTIZE),
            ("device map", self.device_map or "auto", _DEVICE_MAPS),
        ):
            if value not in known:
                raise UsageError(
                    f"{what} {value!r} is not known", hint="one of " + ", ".join(known)
                )
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"--threads {self.threads}: the range is 1 to {MOST_THREADS}")

    @property
    def is_spread(self) -> bool:
        """Whether weights may lie on several devices; without accelerators that takes a limit."""
        if self.max_memory is not None:
            return True
        return self.device_map is not None and (
            self.offload_folder is not None or has_accelerator()
        )

    def resolved_device(self) -> str:
        """The device, ``auto`` resolved to what this machine has.

        Raises:
            UsageError: There is no such device.
        """
        if self.device == "auto":
            return "cuda" if has_accelerator() else "cpu"
        if self.device != "cpu":
            _check_device(self.device)
        return "cpu" if self.device.startswith("cpu:") else self.device

    def precision(self, stored: str, *, in_c: bool = False, has_blocks: bool = False) -> Precision:
        """The precision in which a model computes whose weights are stored as ``stored``.

        On a CPU, bfloat16 where the library in C or the processor multiplies it, and float32 where
        it would be emulated; on an accelerator the stored dtype, or bfloat16 if that has four
        bytes.

        Args:
            stored: A key of ``DTYPE_BYTES``.
            in_c: Whether the library in C computes the model on a CPU.
            has_blocks: Whether there are blocks of a GGUF file.

        Raises:
            UsageError: There is no such device.
        """
        on_cpu = self.resolved_device() == "cpu"
        in_c = in_c and on_cpu and not self.is_spread
        if self.dtype != "auto":
            dtype = self.dtype
        elif on_cpu:
            dtype = "bfloat16" if in_c or cpu.computes_bfloat16() else "float32"
        else:
            dtype = stored if DTYPE_BYTES[stored] == 2 else "bfloat16"
        keeps = has_blocks and in_c and dtype == "bfloat16"
        quantize = ("blocks" if keeps else "none") if self.quantize == "auto" else self.quantize
        return Precision(dtype, quantize)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``.

        Raises:
            UsageError: There is no such device, or a size cannot be read.
        """
        if not self.is_spread:
            return {"device_map": {"": self.resolved_device()}}
        arguments: dict[str, Any] = {"device_map": self.device_map or "auto"}
        if self.max_memory is not None:
            for device, limit in self.max_memory.items():
                _check_size(device, limit)
            arguments["max_memory"] = dict(self.max_memory)
        if self.offload_folder is not None:
            arguments["offload_folder"] = str(self.offload_folder)
        return arguments


AUTOMATIC = Placement()
"""Everything is chosen by what this machine has."""


def has_accelerator() -> bool:
    """Whether torch finds an accelerator; torch is not asked where there is no driver for one."""
    if sys.platform.startswith("linux"):
        devices = Path("/dev")
        if not any(any(devices.glob(pattern)) for pattern in _DRIVERS):
            return False
    import torch

    return torch.cuda.is_available()


def device_of(name: str, local_rank: int) -> str:
    """The device of one of several processes on a machine, which take its accelerators in turn."""
    if name not in ("auto", "cuda") or not has_accelerator():
        return name
    import torch

    return f"cuda:{local_rank % torch.cuda.device_count()}"


def _check_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no data")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"device {name!r} cannot be used: {reason}",
            hint="--device auto takes what this machine has",
        ) from error


def _check_size(device: int | str, limit: str) -> None:
    from accelerate.utils import convert_file_size_to_int

    try:
        convert_file_size_to_int(limit)
    except ValueError as error:
        raise UsageError(
            f"max-memory {device}={limit}: {limit!r} is not a size such as 6GiB or 500MB"
        ) from error
