"""Linear layers with packed weights; see ``linear.c``.

Every tensor is bfloat16 on the CPU and contiguous.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Self

import torch
from torch import Tensor

from lmi_cli.native.library import LANES, opened, takes

_PANEL = 64
"""Rows of a panel."""


class LinearStruct(ctypes.Structure):
    """``Linear`` of ``linear.h``."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class _Ending(IntEnum):
    """``Ending`` of ``linear.h``."""

    STORE = 0
    ADD = 1
    GATED = 2
    WIDE = 3


class PackedLinear:
    """A linear layer whose weight is stored in the order in which it is read.

    Args:
        packed: The weight, in panels; bfloat16, or int8 with a scale.
        rows: Number of outputs.
        columns: Number of inputs.
        bias: ``[rows]`` padded to whole panels, or None.
        scale: float32, padded likewise: the value of one unit in each row of an int8 weight.
    """

    def __init__(
        self,
        packed: Tensor,
        rows: int,
        columns: int,
        bias: Tensor | None,
        scale: Tensor | None = None,
    ) -> None:
        self._packed, self._bias, self._scale = packed, bias, scale
        self.rows, self.columns = rows, columns
        addresses = [
            None if tensor is None else tensor.data_ptr() for tensor in (packed, scale, bias)
        ]
        self.struct = LinearStruct(*addresses, rows, columns)

    @classmethod
    def join(cls, weights: Sequence[Tensor], bias: Tensor | None = None) -> Self:
        """A layer of several weights (``[., in]``), stacked along the outputs.

        Raises:
            ValueError: The library does not support such weights, or the bias has another length.
        """
        weight = weights[0] if len(weights) == 1 else torch.cat(tuple(weights))
        _require(weight)
        rows, columns = weight.shape
        if bias is not None and (bias.shape != (rows,) or bias.dtype is not torch.bfloat16):
            raise ValueError(f"a bias {bias.dtype} {list(bias.shape)} for {rows:,} outputs")
        packed = _panels(rows, weight)
        _pack(weight, _PANEL, 0, packed)
        if bias is not None:
            bias = torch.nn.functional.pad(bias, (0, len(packed) * _PANEL - rows)).contiguous()
        return cls(packed, rows, columns, bias)

    @classmethod
    def join_gated(cls, gate: Tensor, up: Tensor) -> Self:
        """The two inner projections of an MLP (``[inner, in]``), for :meth:`gated`.

        Raises:
            ValueError: The library does not support such weights, or their shapes differ.
        """
        _require(gate, up)
        inner, columns = gate.shape
        packed = _panels(2 * inner, gate)
        _pack(gate, _PANEL // 2, 0, packed)
        _pack(up, _PANEL // 2, _PANEL // 2, packed)
        return cls(packed, 2 * inner, columns, None)

    def quantized(self) -> Self:
        """The same layer with eight bits a weight, each row with a scale of its own.

        For many tokens only the weights are rounded; for few tokens the inputs are rounded too, to
        sixteen bits.
        """
        packed = torch.empty(self._packed.shape, dtype=torch.int8)
        scale = torch.empty(len(packed) * _PANEL)
        opened().lmi_quantize(ctypes.byref(self.struct), packed.data_ptr(), scale.data_ptr())
        return type(self)(packed, self.rows, self.columns, self._bias, scale)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scale and bias."""
        tensors = (self._packed, self._scale, self._bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[..., out]`` of ``x`` (``[..., in]``)."""
        return self._into(x.new_empty(*x.shape[:-1], self.rows), x, _Ending.STORE)

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add the outputs of ``x`` (``[..., in]``), rounded, to ``to`` (``[..., out]``)."""
        self._into(to, x, _Ending.ADD)

    def gated(self, x: Tensor) -> Tensor:
        """``silu(gate) * up`` (``[..., inner]``) of ``x`` (``[..., in]``)."""
        return self._into(x.new_empty(*x.shape[:-1], self.rows // 2), x, _Ending.GATED)

    def wide(self, x: Tensor) -> Tensor:
        """Outputs in float32, not rounded."""
        return self._into(torch.empty(*x.shape[:-1], self.rows), x, _Ending.WIDE)

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the weight (``[..., in]``) by index (int64, ``[...]``).

        Raises:
            ValueError: The weight is quantized.
            IndexError: There is no such row.
        """
        if self._scale is not None:
            raise ValueError("a quantized weight cannot serve as an embedding")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise IndexError(f"an id is not one of the {self.rows:,} rows of the embedding")
        out = torch.empty(*ids.shape, self.columns, dtype=torch.bfloat16)
        ids = ids.to(torch.int64).contiguous()
        opened().lmi_embed(ctypes.byref(self.struct), ids.data_ptr(), ids.numel(), out.data_ptr())
        return out

    def weights(self, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` of the weight, ``[stop - first, in]``."""
        low, high = first // _PANEL, -(-stop // _PANEL)
        panels = self._packed[low:high].permute(0, 2, 1, 3).reshape(-1, self.columns)
        if self._scale is not None:
            panels = panels * self._scale[low * _PANEL : high * _PANEL, None]
        return panels[first - low * _PANEL : stop - low * _PANEL]

    def _into(self, out: Tensor, x: Tensor, ending: _Ending) -> Tensor:
        if x.dtype is not torch.bfloat16 or x.shape[-1] != self.columns:
            raise TypeError(f"got {x.dtype} {list(x.shape)} for {self.columns:,} bfloat16 inputs")
        width = self.rows // 2 if ending is _Ending.GATED else self.rows
        dtype = torch.float32 if ending is _Ending.WIDE else torch.bfloat16
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


def _require(*weights: Tensor) -> None:
    """Refuse what the kernels would read out of bounds."""
    for weight in weights:
        if (
            not takes(weight)
            or weight.dim() != 2
            or not weight.is_contiguous()
            or weight.shape[1] % LANES
            or weight.shape != weights[0].shape
        ):
            shapes = ", ".join(f"{w.dtype} {list(w.shape)}" for w in weights)
            raise ValueError(f"no packed linear layer can be made of {shapes}")


def _panels(rows: int, like: Tensor) -> Tensor:
    count = -(-rows // _PANEL)
    return like.new_zeros(count, like.shape[1] // 2, _PANEL, 2)


def _pack(weight: Tensor, wide: int, place: int, packed: Tensor) -> None:
    opened().lmi_pack(weight.data_ptr(), *weight.shape, wide, place, packed.data_ptr())
