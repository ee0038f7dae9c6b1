"""The weights of a checked model folder, one tensor at a time.

A tensor is read when it is asked for and not kept, so that the memory in use while a model is
loaded is that of the finished model and of one tensor. Files are read, not mapped as safetensors
does: mapped pages count as memory in use until the last tensor of a file is gone. Imports torch.
"""

from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from lmi_cli.checkpoints.tensors import FLOATS, require_shapes, stored_tensors
from lmi_cli.errors import ModelError

_SLICE_BYTES = 2**24
"""What is converted to another dtype is read in slices of this size."""

_DTYPES = dict(
    zip(FLOATS, (torch.float64, torch.float32, torch.float16, torch.bfloat16), strict=True)
)


class Weights(Mapping[str, Tensor]):
    """The tensors of a folder by name, in one dtype on the CPU.

    Args:
        folder: A checked folder.
        dtype: What the tensors are converted to.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._stored = stored_tensors(folder)
        self._dtype = dtype

    def require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """See :func:`lmi_cli.checkpoints.tensors.require_shapes`."""
        require_shapes(self._stored, shapes)

    def require_finite(self) -> None:
        """Read every tensor of floating-point numbers, and keep none.

        Raises:
            ModelError: A tensor contains a value that is not finite.
            OSError: It cannot be read.
        """
        for name, stored in self._stored.items():
            if stored.dtype in FLOATS:
                self[name]

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor.

        Raises:
            KeyError: There is no such tensor.
            ModelError: It contains a value that is not finite, in the file or in this dtype.
            OSError: It cannot be read.
        """
        stored = self._stored[name]
        tensor = torch.empty(stored.shape, dtype=self._dtype)
        flat, dtype = tensor.view(-1), _DTYPES[stored.dtype]
        step = max(1, _SLICE_BYTES // dtype.itemsize)
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            for part in flat.split(step):
                raw = part if dtype == self._dtype else torch.empty(part.shape, dtype=dtype)
                _fill(raw, file)
                if raw is not part:
                    part.copy_(raw)
        require_finite(name, tensor)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _fill(tensor: Tensor, file: FileIO) -> None:
    """Read the bytes of a contiguous tensor.

    Raises:
        OSError: The file is too short.
    """
    rest = tensor.view(torch.uint8).numpy().data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise OSError(f"{file.name} has become shorter")
        rest = rest[count:]


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse a weight that contains an infinity or nan.

    Raises:
        ModelError: It does.
    """
    # The sum is not finite if a value is not; it can overflow, so that all are looked at then.
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    if not torch.isfinite(total) and not torch.isfinite(tensor).all():
        raise ModelError(f"tensor {name} contains values that are not finite in {tensor.dtype}")
