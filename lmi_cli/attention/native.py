"""The kernel in C for processors that multiply bfloat16, where it could be built.

The library is opened by :func:`use`, which :mod:`lmi_cli.models.cpu` calls; until then, and for all
that the library does not do, :mod:`lmi_cli.attention.kernel` computes with torch alone.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lmi_cli.attention.kernel import KeyRange

SOURCE = Path(__file__).with_name("native.c")

_SIZES = (64, 128, 192, 256)
_MAX_RANGES = 4
_NO_LIMIT = 2**62


class _Range(ctypes.Structure):
    """``Range`` of ``native.c``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "query_head", "query_row", "key_head", "value_head",
                "keys", "key_start", "nearest", "farthest",
            )
        ),
    )  # fmt: skip


_library: ctypes.CDLL | None = None


def use(path: Path | None) -> None:
    """Compute with the library at ``path`` from now on, or with torch alone.

    Raises:
        OSError: It cannot be opened.
    """
    global _library
    if path is None:
        _library = None
        return
    opened = ctypes.CDLL(str(path))
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    opened.lmi_attend.argtypes = [pointer, *[integer] * 6, pointer, pointer]
    opened.lmi_attend_one.argtypes = [pointer, *[integer] * 5, pointer, pointer]
    _library = opened


def can(ranges: "Sequence[KeyRange]", softcap: float | None) -> bool:
    """Whether the library is there and computes this."""
    if _library is None or softcap is not None or len(ranges) > _MAX_RANGES:
        return False
    return all(
        tensor.dtype == torch.bfloat16
        and tensor.device.type == "cpu"
        and tensor.shape[-1] in _SIZES
        and tensor.shape[-1] == ranges[0].query.shape[-1]
        and tensor.stride(-1) == 1
        for keys in ranges
        for tensor in (keys.query, keys.key, keys.value)
    ) and all(
        tensor.shape[2] <= 1 or tensor.stride(2) == tensor.shape[-1]
        for keys in ranges
        for tensor in (keys.key, keys.value)
    )


def attend(
    ranges: "Sequence[KeyRange]", *, query_start: int, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """What :func:`lmi_cli.attention.kernel.attend` computes.

    Raises:
        MemoryError: There is no room for the packed keys.
    """
    if _library is None:
        raise RuntimeError("no library is in use")
    batch, heads, rows, size = ranges[0].query.shape
    key_heads = ranges[0].key.shape[1]
    output = torch.empty(batch, heads, rows, size, dtype=torch.bfloat16)
    lse = torch.empty(batch, heads, rows) if with_lse else None
    for item in range(batch):
        table = (_Range * len(ranges))(*(_describe(keys, item) for keys in ranges))
        out = output[item].data_ptr()
        sums = None if lse is None else lse[item].data_ptr()
        if rows == 1:
            failed = _library.lmi_attend_one(
                table, len(ranges), heads, key_heads, size, query_start, out, sums
            )
        else:
            failed = _library.lmi_attend(
                table, len(ranges), heads, key_heads, rows, size, query_start, out, sums
            )
        if failed:
            raise MemoryError("no room for the packed keys of a chunk")
    return output, lse


def _describe(keys: "KeyRange", item: int) -> _Range:
    tensors = (keys.query, keys.key, keys.value)
    return _Range(
        *(tensor.data_ptr() + item * tensor.stride(0) * tensor.itemsize for tensor in tensors),
        keys.query.stride(1),
        keys.query.stride(2),
        keys.key.stride(1),
        keys.value.stride(1),
        keys.key.shape[2],
        keys.key_start,
        keys.nearest,
        _NO_LIMIT if keys.farthest is None else keys.farthest,
    )
