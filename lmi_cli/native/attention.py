"""Softmax attention over several key ranges; see ``attention.c`` and ``few_queries.c``."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmi_cli.native.library import is_open, opened

if TYPE_CHECKING:
    from lmi_cli.attention.ranges import KeyRange

SIZES = (64, 128, 192, 256)
"""Supported head sizes."""
MAX_RANGES = 4
MAX_FEW = 8
"""Queries of a head, at most, each of which gets exactly what it gets alone."""
NO_LIMIT = 2**62
_PAST_KEYS = 256


class Range(ctypes.Structure):
    """``Range`` of ``attention.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "query_head", "query_row", "key_head", "value_head",
                "keys", "key_start", "nearest", "farthest",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("slopes", "query_at", "key_at")),
    )  # fmt: skip


def can(ranges: "Sequence[KeyRange]") -> bool:
    """Whether the library is open and supports this."""
    return obstacle(ranges) is None


def obstacle(ranges: "Sequence[KeyRange]") -> str | None:
    """Why the library does not compute attention over these ranges; None if it does."""
    if len(ranges) > MAX_RANGES:
        return f"a layer attends to more than {MAX_RANGES} ranges of keys"
    size = ranges[0].query.shape[-1]
    for keys in ranges:
        for tensor in (keys.query, keys.key, keys.value):
            if tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu":
                kind = str(tensor.dtype).removeprefix("torch.")
                return f"tensors are {kind} on {tensor.device.type}"
            if tensor.shape[-1] not in SIZES or tensor.shape[-1] != size:
                return f"heads have {tensor.shape[-1]} components"
            if tensor.stride(-1) != 1:
                return "the components of a head are not next to each other in memory"
        for tensor in (keys.key, keys.value):
            if tensor.shape[2] > 1 and tensor.stride(2) != size:
                return "keys are not next to each other in memory"
    return None if is_open() else "the library in C is not in use"


def attend(
    ranges: "Sequence[KeyRange]",
    *,
    query_start: int,
    with_lse: bool,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute what :func:`lmi_cli.attention.kernel.attend` computes.

    Raises:
        MemoryError: There is too little memory for the packed keys.
        ValueError: Shapes do not match.
    """
    batch, heads, rows, size = ranges[0].query.shape
    key_heads = ranges[0].key.shape[1]
    for keys in ranges:
        expected = (batch, key_heads, keys.key.shape[2], size)
        if (
            keys.query.shape != ranges[0].query.shape
            or keys.key.shape != expected
            or keys.value.shape != expected
            or heads % key_heads
        ):
            shapes = (list(x.shape) for x in (keys.query, keys.key, keys.value))
            raise ValueError("no attention of {}, {}, {}".format(*shapes))
    kept = [_falling(keys) for keys in ranges]  # what the tables below point to
    # The layout that the output projection needs next.
    output = torch.empty(batch, rows, heads, size, dtype=torch.bfloat16)
    lse = torch.empty(batch, heads, rows) if with_lse else None
    library, cap = opened(), softcap or 0.0
    for item in range(batch):
        described = (_range_of(*each, item) for each in zip(ranges, kept, strict=True))
        table = (Range * len(ranges))(*described)
        out = output[item].data_ptr()
        sums = None if lse is None else lse[item].data_ptr()
        attend = library.lmi_attend_few if rows <= MAX_FEW else library.lmi_attend
        failed = attend(
            table, len(ranges), heads, key_heads, rows, size, cap, query_start, out, sums
        )
        if failed:
            raise MemoryError("too little memory for the packed keys of a chunk")
    return output.transpose(1, 2), lse


def _falling(keys: "KeyRange") -> tuple[Tensor, ...]:
    """Slopes and positions of queries and keys, as the kernels read them; nothing without ALiBi."""
    if keys.alibi is None:
        return ()
    slopes, query_at, key_at = (x.to("cpu", torch.float32).contiguous() for x in keys.alibi)
    shapes = slopes.shape, query_at.shape, key_at.shape
    if shapes != tuple((count,) for count in (*keys.query.shape[1:3], keys.key.shape[2])):
        raise ValueError("no slopes and positions of {}, {}, {}".format(*map(list, shapes)))
    return slopes, query_at, torch.cat((key_at, key_at.new_zeros(_PAST_KEYS)))


def _range_of(keys: "KeyRange", falling: tuple[Tensor, ...], item: int) -> Range:
    tensors = (keys.query, keys.key, keys.value)
    return Range(
        *(tensor.data_ptr() + item * tensor.stride(0) * tensor.itemsize for tensor in tensors),
        keys.query.stride(1),
        keys.query.stride(2),
        keys.key.stride(1),
        keys.value.stride(1),
        keys.key.shape[2],
        keys.key_start,
        keys.nearest,
        NO_LIMIT if keys.farthest is None else keys.farthest,
        *(tensor.data_ptr() for tensor in falling),
    )
