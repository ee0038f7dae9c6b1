"""The tensors in the safetensors files of a model folder: names, types, shapes and places.

Only headers are read. Imports the standard library only.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from lmi_cli.checkpoints import gguf
from lmi_cli.checkpoints.untrusted_json import parse_object, read_object
from lmi_cli.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCKS = "blocks.json"
"""Says which tensors of bytes are blocks of a GGUF file: their types by name."""
INDEX_LIMIT_BYTES = 64 * 2**20
# The format allows 100 MB; a model of 100,000 tensors needs 12 MB. Parsed, it takes 20 times that.
HEADER_LIMIT_BYTES = 16 * 2**20

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types, as the format names them, of weights that can be read."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        path: The file.
        name: Its name.
        dtype: Its type, as the format names it; for blocks of a GGUF file, their type there.
        shape: Its shape; for blocks, that of the weights.
        start: Offset of its first byte in the file.
        nbytes: Its length in bytes.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checked folder by name.

    Raises:
        ModelError: A tensor cannot consist of the blocks that it is said to consist of.
    """
    found = {tensor.name: tensor for path in _weight_files(folder) for tensor in read_header(path)}
    if (folder / BLOCKS).exists():
        kinds = read_object(folder / BLOCKS, INDEX_LIMIT_BYTES)
        found |= {name: _of_blocks(found.get(name), kind) for name, kind in kinds.items()}
    return found


def _of_blocks(tensor: StoredTensor | None, kind: object) -> StoredTensor:
    """A tensor of bytes ``[rows, bytes of a row]``, as the weights in it."""
    for number, name in gguf.KEPT.items():
        columns, nbytes = gguf.BLOCKS[number]
        if tensor is not None and name == kind and tensor.dtype == "U8" and len(tensor.shape) == 2:
            rows, row_bytes = tensor.shape
            if rows and row_bytes and row_bytes % nbytes == 0:
                return replace(tensor, dtype=name, shape=(rows, row_bytes // nbytes * columns))
    name = "a tensor" if tensor is None else f"tensor {tensor.name[:80]!r}"
    raise ModelError(f"{name} cannot consist of blocks of the type {str(kind)[:20]!r}")


def require_shapes(
    stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check tensors against the shapes that a configuration implies; no weight is read.

    Raises:
        ModelError: A tensor is missing, is not of floating-point numbers, or has another shape.
    """
    for name, shape in shapes.items():
        found = stored.get(name)
        if found is None:
            raise ModelError(f"there is no tensor {name}")
        if found.dtype not in (*FLOATS, *gguf.KEPT.values()):
            raise ModelError(f"tensor {name} is stored as {found.dtype}, an unsupported type")
        if found.shape != shape:
            raise wrong_shape(name, found.shape, shape)


def wrong_shape(name: str, stored: Sequence[int], expected: Sequence[int]) -> ModelError:
    """The error for a tensor whose shape is not the one that the configuration implies."""
    return ModelError(
        f"tensor {name} has the shape {list(stored)}, but by the configuration it is "
        f"{list(expected)}"
    )


def read_header(path: Path) -> list[StoredTensor]:
    """Check the header of a safetensors file, and return its tensors in the order of their bytes.

    Raises:
        ModelError: The header is damaged, or the tensors do not fill the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelError(f"{path} is too short to be a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(HEADER_LIMIT_BYTES, size - 8):
            raise ModelError(f"{path}: its header claims {length:,} bytes (file: {size:,})")
        header = parse_object(path, file.read(length))
    header.pop("__metadata__", None)
    found = [_tensor(path, 8 + length, name, entry) for name, entry in header.items()]
    found.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    position = 8 + length
    for tensor in found:
        if tensor.start != position:
            raise ModelError(
                f"{path}: tensor {tensor.name[:80]!r} overlaps another or leaves a gap"
            )
        position += tensor.nbytes
    if position != size:
        raise ModelError(f"{path}: its tensors do not fill the file (truncated?)")
    return found


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    index = read_object(folder / INDEX, INDEX_LIMIT_BYTES)
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _tensor(path: Path, base: int, name: str, entry: object) -> StoredTensor:
    """A tensor from its entry, which is checked; offsets there are relative to ``base``."""
    if isinstance(entry, dict):
        bits = _BITS.get(str(entry.get("dtype")))
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if bits and _is_naturals(shape, 32) and _is_naturals(offsets, 2) and len(offsets) == 2:
            start, end = offsets
            if start <= end and (end - start) * 8 == prod(shape) * bits:
                return StoredTensor(
                    path, name, entry["dtype"], tuple(shape), base + start, end - start
                )
    raise ModelError(f"{path}: tensor {name[:80]!r} has an impossible type, shape or offset")


def _is_naturals(value: Any, most: int) -> TypeGuard[list[int]]:
    """Return whether a value is a list of at most ``most`` integers from 0 to 2**63 - 1."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )
