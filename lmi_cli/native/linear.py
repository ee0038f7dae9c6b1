"""Linear layers with packed weights; see ``linear.c`` and ``blocks.h``.

Inputs and outputs are bfloat16 on the CPU and contiguous. Weights are bfloat16, or blocks of four
to eight bits a weight.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from lmi_cli.native.kinds import GGUF_KINDS, LANES, ROUNDED, Kind, span_of
from lmi_cli.native.library import opened, takes

_PANEL = 64
"""Rows of a panel."""
_BLOCK = 32
"""Columns of a block."""
_MAX_PARTS = 3


@dataclass(frozen=True, slots=True)
class GgufBlocks:
    """A weight as it lies in a GGUF file.

    Attributes:
        kind: A key of :data:`lmi_cli.native.kinds.GGUF_KINDS`.
        raw: uint8 ``[rows, bytes of a row]``.
    """

    kind: int
    raw: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        kind = GGUF_KINDS[self.kind]
        return len(self.raw), self.raw.shape[1] // kind.nbytes * kind.columns


Weight = Tensor | GgufBlocks


@dataclass(frozen=True, slots=True)
class PackedPart:
    """Rows of a linear layer that are stored alike: ``Part`` of ``blocks.h``.

    A weight is ``scale * (code - offset) - minimum``.

    Attributes:
        rows: Their number.
        codes: In panels of 64 rows: bfloat16 ``[panels, columns / 2, 64, 2]``, or uint8
            ``[panels, columns / 32, 256 * bits]``.
        bits: Of a code; 16 for bfloat16.
        offset: What is subtracted from a code.
        scale: float16 ``[panels, columns / span, 64]``, where a span is 16 columns for six bits and
            32 for others; None for bfloat16.
        minimum: Like ``scale``, or None for zeros.
        bias: bfloat16 ``[64 * panels]``, or None.
    """

    rows: int
    codes: Tensor
    bits: int = 16
    offset: int = 0
    scale: Tensor | None = None
    minimum: Tensor | None = None
    bias: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it consists of, by name."""
        found = {name: getattr(self, name) for name in ("codes", "scale", "minimum", "bias")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


class PartStruct(ctypes.Structure):
    """``Part`` of ``blocks.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "minimum", "bias")),
        *((name, ctypes.c_int64) for name in ("rows", "first", "bits", "offset")),
    )


class LinearStruct(ctypes.Structure):
    """``Linear`` of ``linear.h``."""

    _fields_ = (
        ("parts", PartStruct * _MAX_PARTS),
        *((name, ctypes.c_int64) for name in ("count", "rows", "columns")),
    )


class Ending(IntEnum):
    """How the outputs of a linear layer are stored: ``Ending`` of ``linear.h``."""

    STORE = 0
    ADD = 1
    SWIGLU = 2
    GEGLU = 3
    WIDE = 4


GATES = {"silu": Ending.SWIGLU, "gelu_pytorch_tanh": Ending.GEGLU}
"""The endings for two inner projections of an MLP, by the name of the activation."""


class PackedLinear:
    """A linear layer whose weight is stored in the order in which it is read.

    Args:
        parts: Its rows, at most three parts.
        columns: Number of inputs.

    Raises:
        ValueError: The tensors of a part have other shapes or dtypes than it says, or there are
            more parts.
    """

    def __init__(self, parts: Sequence[PackedPart], columns: int) -> None:
        if len(parts) > _MAX_PARTS:
            raise ValueError(f"{len(parts)} kinds of weights in one layer")
        self.parts = tuple(parts)
        self.columns = columns
        self.rows = sum(part.rows for part in parts)
        self.struct = LinearStruct(count=len(parts), rows=self.rows, columns=columns)
        first = 0
        for at, part in enumerate(parts):
            _require_shapes(part, columns)
            addresses = (
                None if tensor is None else tensor.data_ptr()
                for tensor in (part.codes, part.scale, part.minimum, part.bias)
            )
            self.struct.parts[at] = PartStruct(*addresses, part.rows, first, part.bits, part.offset)
            first += part.rows

    @classmethod
    def join(cls, weights: Sequence[Weight], bias: Tensor | None = None) -> Self:
        """A layer of several weights (``[., in]``), stacked along the outputs.

        Raises:
            ValueError: The library does not support such weights, or the bias has another length.
        """
        columns = _columns_of(weights)
        rows = sum(weight.shape[0] for weight in weights)
        if bias is not None and (bias.shape != (rows,) or bias.dtype is not torch.bfloat16):
            raise ValueError(f"a bias {bias.dtype} {list(bias.shape)} for {rows:,} outputs")
        parts: list[PackedPart] = []
        first = 0
        for _, alike in groupby(weights, kind_of):
            part = _part(_stacked(list(alike)))
            if bias is not None:
                own = bias[first : first + part.rows]
                padding = len(part.codes) * _PANEL - part.rows
                part = replace(part, bias=torch.nn.functional.pad(own, (0, padding)).contiguous())
            parts.append(part)
            first += part.rows
        return cls(parts, columns)

    @classmethod
    def join_gated(cls, gate: Weight, up: Weight) -> Self:
        """The two inner projections of an MLP (``[inner, in]``), for :meth:`gated`.

        Raises:
            ValueError: The library does not support such weights, or they are not alike.
        """
        columns = _columns_of((gate, up))
        if gate.shape != up.shape or kind_of(gate) != kind_of(up):
            raise ValueError(f"no packed linear layer of {_said(gate)} and {_said(up)}")
        part = _empty(kind_of(gate), 2 * gate.shape[0], columns)
        _fill(part, gate, _PANEL // 2, 0)
        _fill(part, up, _PANEL // 2, _PANEL // 2)
        return cls([part], columns)

    def quantized(self, bits: int) -> Self:
        """The same layer with four or eight bits a weight where it has bfloat16.

        Each block of 32 weights of a row has a scale of its own, and with four bits a minimum.
        """
        return type(self)(
            [self._quantized(at, bits) for at in range(len(self.parts))], self.columns
        )

    def _quantized(self, at: int, bits: int) -> PackedPart:
        part = self.parts[at]
        if part.bits < 16:
            return part
        made = _blocks(ROUNDED[bits], part.rows, self.columns)
        opened().lmi_quantize(
            ctypes.byref(self.struct.parts[at]),
            self.columns,
            bits,
            *(None if t is None else t.data_ptr() for t in (made.codes, made.scale, made.minimum)),
        )
        return replace(made, bias=part.bias)

    @property
    def alike_rows(self) -> int:
        """Tokens, at most, each of which gets exactly the outputs that it gets alone."""
        return int(opened().lmi_few(ctypes.byref(self.struct)))

    @property
    def nbytes(self) -> int:
        """Bytes of weights, scales and biases."""
        return sum(t.nbytes for part in self.parts for t in part.tensors.values())

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[..., out]`` of ``x`` (``[..., in]``)."""
        return self._into(x.new_empty(*x.shape[:-1], self.rows), x, Ending.STORE)

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add the outputs of ``x`` (``[..., in]``), rounded, to ``to`` (``[..., out]``)."""
        self._into(to, x, Ending.ADD)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """``activation(gate) * up`` (``[..., inner]``) of ``x`` (``[..., in]``).

        Args:
            x: Inputs.
            activation: A key of :data:`GATES`.
        """
        return self._into(x.new_empty(*x.shape[:-1], self.rows // 2), x, GATES[activation])

    def wide(self, x: Tensor) -> Tensor:
        """Outputs in float32, not rounded."""
        return self._into(torch.empty(*x.shape[:-1], self.rows), x, Ending.WIDE)

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the weight (``[..., in]``) by index (int64, ``[...]``).

        Raises:
            IndexError: There is no such row.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise IndexError(f"an id is not one of the {self.rows:,} rows of the embedding")
        out = torch.empty(*ids.shape, self.columns, dtype=torch.bfloat16)
        ids = ids.to(torch.int64).contiguous()
        opened().lmi_embed(ctypes.byref(self.struct), ids.data_ptr(), ids.numel(), out.data_ptr())
        return out

    def weights(self, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` of the weight, ``[stop - first, in]``."""
        return self.embed(torch.arange(first, stop))

    def _into(self, out: Tensor, x: Tensor, ending: Ending) -> Tensor:
        if x.dtype is not torch.bfloat16 or x.shape[-1] != self.columns:
            raise TypeError(f"got {x.dtype} {list(x.shape)} for {self.columns:,} bfloat16 inputs")
        width = self.rows // 2 if ending in GATES.values() else self.rows
        dtype = torch.float32 if ending is Ending.WIDE else torch.bfloat16
        usual = out.dtype is dtype and out.is_contiguous()
        if out.shape != (*x.shape[:-1], width) or not usual:
            raise ValueError(f"outputs {out.dtype} {list(out.shape)} for inputs {list(x.shape)}")
        x = x.contiguous()
        if opened().lmi_linear(
            ctypes.byref(self.struct),
            ending,
            x.data_ptr(),
            x.numel() // self.columns,
            out.data_ptr(),
            out.shape[-1] * out.itemsize,
        ):
            raise MemoryError("too little memory for a panel of weights")
        return out


def kind_of(weight: Weight) -> int | None:
    """The number of a block format; None for bfloat16."""
    return weight.kind if isinstance(weight, GgufBlocks) else None


def halves(weight: Weight) -> tuple[Weight, Weight]:
    """The upper and the lower half of the rows of a weight."""
    half = weight.shape[0] // 2
    if isinstance(weight, GgufBlocks):
        upper, lower = weight.raw[:half], weight.raw[half:]
        return GgufBlocks(weight.kind, upper), GgufBlocks(weight.kind, lower)
    return weight[:half], weight[half:]


def _said(weight: Weight) -> str:
    if isinstance(weight, GgufBlocks):
        return f"blocks of kind {weight.kind}, {weight.raw.dtype} {list(weight.raw.shape)}"
    return f"{weight.dtype} {list(weight.shape)}"


def _columns_of(weights: Sequence[Weight]) -> int:
    """The number of inputs; refuses what the kernels would read out of bounds."""
    for weight in weights:
        if isinstance(weight, GgufBlocks):
            raw = weight.raw
            usual = raw.dtype is torch.uint8 and raw.dim() == 2 and raw.is_contiguous()
            usual = usual and raw.device.type == "cpu" and weight.kind in GGUF_KINDS
            usual = usual and not raw.shape[1] % GGUF_KINDS[weight.kind].nbytes
        else:
            usual = takes(weight) and weight.dim() == 2 and weight.is_contiguous()
        same = usual and weight.shape[1] == weights[0].shape[1]
        if not same or weight.shape[1] % LANES:
            said = ", ".join(map(_said, weights))
            raise ValueError(f"no packed linear layer can be made of {said}")
    return int(weights[0].shape[1])


def _stacked(weights: Sequence[Weight]) -> Weight:
    first = weights[0]
    if len(weights) == 1:
        return first
    if isinstance(first, GgufBlocks):
        raws = [weight.raw for weight in weights if isinstance(weight, GgufBlocks)]
        return GgufBlocks(first.kind, torch.cat(raws))
    return torch.cat([weight for weight in weights if isinstance(weight, Tensor)])


def _part(weight: Weight) -> PackedPart:
    part = _empty(kind_of(weight), *weight.shape)
    _fill(part, weight, _PANEL, 0)
    return part


def _empty(kind: int | None, rows: int, columns: int) -> PackedPart:
    if kind is not None:
        return _blocks(GGUF_KINDS[kind], rows, columns)
    panels = -(-rows // _PANEL)
    return PackedPart(rows, torch.zeros(panels, columns // 2, _PANEL, 2, dtype=torch.bfloat16))


def _blocks(kind: Kind, rows: int, columns: int) -> PackedPart:
    panels = -(-rows // _PANEL)
    scales = (panels, columns // kind.span, _PANEL)
    return PackedPart(
        rows,
        torch.zeros(panels, columns // _BLOCK, 256 * kind.bits, dtype=torch.uint8),
        kind.bits,
        kind.offset,
        torch.zeros(scales, dtype=torch.float16),
        torch.zeros(scales, dtype=torch.float16) if kind.has_minimum else None,
    )


def _fill(part: PackedPart, weight: Weight, wide: int, place: int) -> None:
    """Pack a weight into panels, ``wide`` rows of each from ``place`` on."""
    library = opened()
    if isinstance(weight, GgufBlocks):
        library.lmi_repack(
            weight.kind,
            weight.raw.data_ptr(),
            *weight.shape,
            wide,
            place,
            *(None if t is None else t.data_ptr() for t in (part.codes, part.scale, part.minimum)),
        )
    else:
        library.lmi_pack(weight.data_ptr(), *weight.shape, wide, place, part.codes.data_ptr())


def _require_shapes(part: PackedPart, columns: int) -> None:
    """Refuse a part of which the kernels would read out of bounds."""
    panels = -(-part.rows // _PANEL)
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]]
    if part.bits == 16:
        expected = {"codes": ((panels, columns // 2, _PANEL, 2), torch.bfloat16)}
    else:
        scales = ((panels, columns // span_of(part.bits), _PANEL), torch.float16)
        codes = ((panels, columns // _BLOCK, 256 * part.bits), torch.uint8)
        expected = {"codes": codes, "scale": scales, "minimum": scales}
    expected["bias"] = ((panels * _PANEL,), torch.bfloat16)
    found = part.tensors
    if part.bits not in (4, 5, 6, 8, 16) or (part.bits < 16 and part.scale is None):
        raise ValueError(f"a part of {part.bits} bits with {', '.join(found)}")
    if part.rows < 0 or columns % LANES:
        raise ValueError(f"a part of {part.rows:,} rows and {columns:,} columns")
    for name, tensor in found.items():
        if (tuple(tensor.shape), tensor.dtype) != expected.get(name) or not tensor.is_contiguous():
            raise ValueError(f"{name} {tensor.dtype} {list(tensor.shape)} for {part.rows} rows")
