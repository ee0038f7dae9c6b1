"""One token, or a few, through all layers of a decoder; see ``step.c``.

Every tensor is on the CPU and contiguous; norms are float32, all else is bfloat16.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmi_cli.native.attention import MAX_FEW, MAX_RANGES, NO_LIMIT, SIZES, Range
from lmi_cli.native.library import opened
from lmi_cli.native.linear import GATES, LinearStruct, PackedLinear

if TYPE_CHECKING:
    from lmi_cli.attention.ranges import TokenView
    from lmi_cli.attention.rope import Rotation


_ITEM_BYTES = 2


class _Layer(ctypes.Structure):
    """``Layer`` of ``step.c``."""

    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "output", "gate_up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "before_attention",
                "after_attention",
                "before_mlp",
                "after_mlp",
                "norm_query",
                "norm_key",
            )
        ),
    )


class _Shape(ctypes.Structure):
    """``Shape`` of ``step.c``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                "layers", "heads", "key_heads", "size", "hidden", "inner",
                "gate", "twice", "whole_norms",
            )
        ),
        *((name, ctypes.c_float) for name in ("epsilon", "scale", "residual_scale", "softcap")),
    )  # fmt: skip


class _Rotation(ctypes.Structure):
    """``Rotation`` of ``step.c``."""

    _fields_ = (
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        ("row", ctypes.c_int64),
    )


class _Seen(ctypes.Structure):
    """``Seen`` of ``step.c``."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("ranges", Range * MAX_RANGES),
        ("queries", _Rotation * MAX_RANGES),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("key_head", ctypes.c_int64),
        ("value_head", ctypes.c_int64),
        ("rotation", _Rotation),
    )


@dataclass(frozen=True, slots=True)
class LayerNorms:
    """The weights of a layer's normalisations, float32; None for one that it does not have.

    Attributes:
        before_attention: ``[hidden]``; and so are the next three.
        after_attention: Of the outputs of attention, before they are added to the residual.
        before_mlp: Of the inputs of the MLP.
        after_mlp: Of its outputs.
        query: Of each query, ``[head size]``, or of all queries of a token together,
            ``[heads * head size]``.
        key: Likewise of keys.
    """

    before_attention: Tensor | None
    after_attention: Tensor | None
    before_mlp: Tensor | None
    after_mlp: Tensor | None
    query: Tensor | None
    key: Tensor | None

    def __iter__(self) -> Iterator[Tensor | None]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class StepLayer:
    """The weights of a decoder layer.

    Attributes:
        linears: In this order: the stacked projections to queries, keys and values; the output
            projection; the joined inner projections of the MLP; its outer projection.
        norms: The weights of its normalisations.
    """

    linears: Sequence[PackedLinear]
    norms: LayerNorms


class Stepper:
    """The layers of a decoder, for one token or a few at a time.

    Args:
        layers: Their weights.
        heads: Numbers of query heads and key heads.
        activation: Of the gate of the MLP, a key of :data:`lmi_cli.native.linear.GATES`.
        epsilon: Added to the mean square in each normalisation.
        twice: See :func:`lmi_cli.native.pointwise.norm`.
        whole_norms: Whether all queries of a token are normalised together, and all its keys.
        scale: Factor on each score.
        residual_scale: Factor on what is added to the residual.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.

    Raises:
        ValueError: The sizes of a layer do not match.
    """

    def __init__(
        self,
        layers: Sequence[StepLayer],
        heads: tuple[int, int],
        *,
        activation: str = "silu",
        epsilon: float,
        twice: bool = True,
        whole_norms: bool = False,
        scale: float,
        residual_scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        self._kept = tuple(layers)  # what the addresses point to
        first = layers[0]
        qkv, _, _, down = first.linears
        hidden, inner = down.rows, down.columns
        size = qkv.rows // (heads[0] + 2 * heads[1])
        if size not in SIZES:
            raise ValueError(f"heads of {size} components")
        for layer in layers:
            _require_sizes(layer, hidden, inner, heads, size, whole_norms)
        self._shape = _Shape(
            *(len(layers), *heads, size, hidden, inner),
            *(GATES[activation], twice, whole_norms),
            *(epsilon, scale, residual_scale, softcap or 0.0),
        )
        self._layers = (_Layer * len(layers))(*map(_described, layers))
        self._seen = (_Seen * len(layers))()

    def step(self, x: Tensor, views: "Sequence[TokenView]", position: int) -> None:
        """Take the residuals ``x`` (``[1, n, hidden]``) of tokens through all layers.

        Each of them gets exactly what it would get alone after those before it.

        Args:
            x: Overwritten with the residuals after the last layer; at most ``MAX_FEW`` tokens.
            views: What the tokens see, by layer.
            position: True position of the first token.

        Raises:
            MemoryError: There is too little memory for their vectors.
            ValueError: A tensor has another shape or dtype, or a view reaches beyond its tensors.
        """
        shape = self._shape
        usual = x.dtype is torch.bfloat16 and x.is_contiguous()
        rows = x.shape[1] if x.dim() == 3 else 0
        if x.shape != (1, rows, shape.hidden) or not 1 <= rows <= MAX_FEW or not usual:
            raise ValueError(f"residuals {x.dtype} {list(x.shape)} of {shape.hidden}")
        rotations: dict[int, _Rotation] = {id(None): _Rotation()}
        for seen, view in zip(self._seen, views, strict=True):
            _see(seen, view, rotations, shape, rows)
        if opened().lmi_step(
            ctypes.byref(self._shape), self._layers, self._seen, rows, position, x.data_ptr()
        ):
            raise MemoryError("too little memory for the vectors of a token")


def _require_sizes(
    layer: StepLayer, hidden: int, inner: int, heads: tuple[int, int], size: int, whole: bool
) -> None:
    """Refuse a layer of which the kernel would read or write out of bounds."""
    queries = heads[0] * size
    linears = ((queries + 2 * heads[1] * size, hidden), (hidden, queries), (2 * inner, hidden))
    expected = (*linears, (hidden, inner))
    found = tuple((linear.rows, linear.columns) for linear in layer.linears)
    per_norm = (heads[0] * size, heads[1] * size) if whole else (size, size)
    norms = (*[hidden] * 4, *per_norm)
    if (
        found != expected
        or heads[0] % heads[1]
        or any(
            n is not None
            and (n.shape != (s,) or n.dtype is not torch.float32 or not n.is_contiguous())
            for n, s in zip(layer.norms, norms, strict=True)
        )
    ):
        raise ValueError(f"a layer of {found} where {expected} is expected")


def _described(layer: StepLayer) -> _Layer:
    return _Layer(
        *(linear.struct for linear in layer.linears),
        *(None if norm is None else norm.data_ptr() for norm in layer.norms),
    )


def _see(
    seen: _Seen, view: "TokenView", rotations: dict[int, _Rotation], shape: _Shape, rows: int
) -> None:
    """Describe a view; ``rotations`` holds those described so far, by the id of the original."""
    size = shape.size
    item = size * _ITEM_BYTES
    key, value, column = view.key, view.value, view.column
    head = _head_stride(key, value, column, rows, shape)
    seen.count = len(view.ranges)
    if seen.count > MAX_RANGES:
        raise ValueError(f"{seen.count} ranges, where there is room for {MAX_RANGES}")
    seen.key = key.data_ptr() + column * item
    seen.value = value.data_ptr() + column * item
    seen.key_head = seen.value_head = head
    seen.rotation = _rotation(view.rotation, rotations, size, rows)
    ranges, queries = seen.ranges, seen.queries
    for at, (rotation, key, value, begin, count, start, nearest, farthest) in enumerate(
        view.ranges
    ):
        queries[at] = _rotation(rotation, rotations, size, rows)
        found = ranges[at]
        found.key_head = found.value_head = _head_stride(key, value, begin, count, shape)
        found.key, found.value = key.data_ptr() + begin * item, value.data_ptr() + begin * item
        found.keys, found.key_start = count, start
        found.nearest, found.farthest = nearest, NO_LIMIT if farthest is None else farthest


def _head_stride(key: Tensor, value: Tensor, begin: int, count: int, shape: _Shape) -> int:
    """Elements from one head to the next, after checking that the kernel can read the tokens."""
    sizes, strides = key.shape, key.stride()
    if (
        sizes != value.shape
        or strides != value.stride()
        or sizes[0] != 1
        or sizes[1] != shape.key_heads
        or sizes[3] != shape.size
        or strides[2:] != (shape.size, 1)
        or not 0 <= begin <= begin + count <= sizes[2]
        or key.dtype is not torch.bfloat16
        or value.dtype is not torch.bfloat16
    ):
        raise ValueError(
            f"keys {key.dtype} {list(sizes)}, values {value.dtype} {list(value.shape)}, of them "
            f"{count:,} from {begin:,} on, for {shape.key_heads} heads of {shape.size}"
        )
    return strides[1]


def _rotation(
    rotation: "Rotation | None", rotations: dict[int, _Rotation], size: int, rows: int
) -> _Rotation:
    known = rotations.get(id(rotation))
    if known is None and rotation is not None:
        shapes = ((1, size), (rows, size))
        for part in (rotation.cos, rotation.sin):
            usual = part.dtype is torch.float32 and part.is_contiguous()
            if part.shape not in shapes or part.shape != rotation.cos.shape or not usual:
                raise ValueError(f"a rotation {part.dtype} {list(part.shape)} of {rows} x {size}")
        stride = size if rotation.cos.shape[0] > 1 else 0
        known = _Rotation(rotation.cos.data_ptr(), rotation.sin.data_ptr(), stride)
        rotations[id(rotation)] = known
    return known or _Rotation()
