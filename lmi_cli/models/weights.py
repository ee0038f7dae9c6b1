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

from lmi_cli.checkpoints.gguf import BLOCKS, KEPT
from lmi_cli.checkpoints.tensors import FLOATS, require_shapes, stored_tensors
from lmi_cli.errors import ModelError
from lmi_cli.native.linear import GgufBlocks, Weight

_SLICE_BYTES = 2**22
"""What is converted to another dtype is read in slices of this size."""

_KINDS = {name: number for number, name in KEPT.items()}
_SCALES_AT = {14: (208,), 3: (0, 2), 7: (0, 2), 12: (0, 2), 13: (0, 2)}
"""Where the numbers in half precision are in a block, if it is not only the first two bytes."""

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
            elif stored.dtype in _KINDS:
                self.as_stored(name)

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor.

        Raises:
            KeyError: There is no such tensor.
            ModelError: It contains a value that is not finite, in the file or in this dtype.
            OSError: It cannot be read.
        """
        stored = self._stored[name]
        if stored.dtype in _KINDS:
            return self._dequantized(name)
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

    def as_stored(self, name: str) -> Weight:
        """Read a tensor; blocks of a GGUF file stay as they are.

        Raises:
            KeyError: There is no such tensor.
            ModelError: It contains a value that is not finite.
            OSError: It cannot be read.
        """
        kind = _KINDS.get(self._stored[name].dtype)
        return self[name] if kind is None else GgufBlocks(kind, self._raw(name, kind))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by name."""
        return {name: stored.shape for name, stored in self._stored.items()}

    @property
    def has_blocks(self) -> bool:
        """Whether there are blocks of a GGUF file."""
        return any(tensor.dtype in _KINDS for tensor in self._stored.values())

    def _raw(self, name: str, kind: int) -> Tensor:
        stored = self._stored[name]
        raw = torch.empty(stored.shape[0], stored.nbytes // stored.shape[0], dtype=torch.uint8)
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            _fill(raw, file)
        halves = raw.view(-1, BLOCKS[kind][1]).view(torch.float16)
        for at in _SCALES_AT.get(kind, (0,)):
            require_finite(name, halves[:, at // 2])
        return raw

    def _dequantized(self, name: str) -> Tensor:
        import gguf

        stored = self._stored[name]
        kind = _KINDS[stored.dtype]
        raw, tensor = self._raw(name, kind), torch.empty(stored.shape, dtype=self._dtype)
        rows = max(1, _SLICE_BYTES // (4 * stored.shape[1]))
        for blocks, part in zip(raw.split(rows), tensor.split(rows), strict=True):
            found = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType(kind))
            part.copy_(torch.from_numpy(found))
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
    wide = torch.promote_types(tensor.dtype, torch.float32)
    for part in tensor.reshape(-1).split(_SLICE_BYTES // wide.itemsize):  # torch widens a copy
        # The sum is not finite if a value is not; it can overflow, so that all are looked at then.
        if not torch.isfinite(part.sum(dtype=wide)) and not torch.isfinite(part).all():
            raise ModelError(f"tensor {name} contains values that are not finite in {tensor.dtype}")
