"""One token through all layers of a decoder; see ``step.c``.

Every tensor is bfloat16 on the CPU and contiguous, and its rows are multiples of 32 long.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmi_cli.native.attention import MAX_RANGES, NO_LIMIT, Range
from lmi_cli.native.library import opened

if TYPE_CHECKING:
    from lmi_cli.attention.kernel import TokenView
    from lmi_cli.attention.rope import Turn


class _Linear(ctypes.Structure):
    """``Linear`` of ``step.c``."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """``Layer`` of ``step.c``."""

    _fields_ = (
        *((name, _Linear) for name in ("qkv", "output", "gate", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in ("norm_attention", "norm_mlp", "norm_query", "norm_key")
        ),
    )


class _Shape(ctypes.Structure):
    """``Shape`` of ``step.c``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("layers", "heads", "key_heads", "size", "hidden", "inner")
        ),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
    )


class _Turn(ctypes.Structure):
    """``Turn`` of ``step.c``."""

    _fields_ = (("cosine", ctypes.c_void_p), ("sine", ctypes.c_void_p))


class _Seen(ctypes.Structure):
    """``Seen`` of ``step.c``."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("ranges", Range * MAX_RANGES),
        ("queries", _Turn * MAX_RANGES),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("key_head", ctypes.c_int64),
        ("value_head", ctypes.c_int64),
        ("turn", _Turn),
    )


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer.

    Attributes:
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def describe(self, first: int = 0, rows: int | None = None) -> _Linear:
        """The layer, or ``rows`` of its rows from ``first`` on, as the library takes it."""
        weight = self.weight[first:]
        bias = None if self.bias is None else self.bias[first:].data_ptr()
        return _Linear(weight.data_ptr(), bias, rows or len(weight), weight.shape[1])

    def one(self, x: Tensor) -> Tensor:
        """Of one token: float32 ``[1, out]`` of ``x``, ``[1, in]``."""
        out = torch.empty(1, len(self.weight))
        opened().lmi_linear_one(ctypes.byref(self.describe()), x.data_ptr(), out.data_ptr())
        return out


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of a decoder layer; projections of the same input lie below each other.

    Attributes:
        qkv: To queries, keys and values.
        output: Of what was attended to.
        gate_up: The two inner projections of the MLP.
        down: Its outer projection.
        norm_attention: ``[hidden]``, before attention.
        norm_mlp: ``[hidden]``, before the MLP.
        norm_query: ``[head size]``, of each query, or None.
        norm_key: ``[head size]``, of each key, or None.
    """

    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    norm_attention: Tensor
    norm_mlp: Tensor
    norm_query: Tensor | None = None
    norm_key: Tensor | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its linear layers."""
        return (self.qkv, self.output, self.gate_up, self.down)

    @property
    def tensors(self) -> list[Tensor]:
        """All of its weights."""
        found = [tensor for linear in self.linears for tensor in (linear.weight, linear.bias)]
        found += [self.norm_attention, self.norm_mlp, self.norm_query, self.norm_key]
        return [tensor for tensor in found if tensor is not None]


class Stepper:
    """The layers of a decoder, for one token at a time.

    Args:
        layers: Their weights.
        heads: Query heads and key heads.
        epsilon: Added to the mean square in each normalisation.
        scale: Factor on each score.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        heads: tuple[int, int],
        *,
        epsilon: float,
        scale: float,
    ) -> None:
        self._kept = tuple(layers)  # what the addresses point to
        first = layers[0]
        hidden, inner = first.down.weight.shape
        size = len(first.qkv.weight) // (heads[0] + 2 * heads[1])
        self._shape = _Shape(len(layers), *heads, size, hidden, inner, epsilon, scale)
        self._layers = (_Layer * len(layers))(*map(_described, layers))
        self._seen = (_Seen * len(layers))()

    def step(self, x: Tensor, views: "Sequence[TokenView]", position: int) -> None:
        """Take the residual ``x`` (``[1, 1, hidden]``) of the token at ``position`` through.

        Args:
            x: Is replaced by the residual behind the last layer.
            views: What the token sees, by layer.
            position: Its true position.

        Raises:
            MemoryError: There is no room for its vectors.
        """
        turns: dict[int, _Turn] = {id(None): _Turn()}
        for seen, view in zip(self._seen, views, strict=True):
            _see(seen, view, turns)
        if opened().lmi_step(
            ctypes.byref(self._shape), self._layers, self._seen, position, x.data_ptr()
        ):
            raise MemoryError("no room for the vectors of a token")


def _described(layer: LayerWeights) -> _Layer:
    inner = layer.down.weight.shape[1]
    norms = (layer.norm_attention, layer.norm_mlp, layer.norm_query, layer.norm_key)
    return _Layer(
        layer.qkv.describe(),
        layer.output.describe(),
        layer.gate_up.describe(0, inner),
        layer.gate_up.describe(inner, inner),
        layer.down.describe(),
        *(None if norm is None else norm.data_ptr() for norm in norms),
    )


def _see(seen: _Seen, view: "TokenView", turns: dict[int, _Turn]) -> None:
    """Describe a view; ``turns`` has the rotations met so far, by the identity of theirs."""
    key, value = view.key, view.value
    _, head, row, _ = key.stride()
    item = key.itemsize
    seen.count = len(view.ranges)
    seen.key = key.data_ptr() + view.column * row * item
    seen.value = value.data_ptr() + view.column * row * item
    seen.key_head = seen.value_head = head
    seen.turn = _turn(view.turn, turns)
    ranges, queries = seen.ranges, seen.queries
    for at, (turn, key, value, begin, count, start, nearest, farthest) in enumerate(view.ranges):
        queries[at] = _turn(turn, turns)
        _, head, row, _ = key.stride()
        first = begin * row * item
        found = ranges[at]
        found.key, found.value = key.data_ptr() + first, value.data_ptr() + first
        found.key_head = found.value_head = head
        found.keys, found.key_start = count, start
        found.nearest, found.farthest = nearest, NO_LIMIT if farthest is None else farthest


def _turn(turn: "Turn | None", turns: dict[int, _Turn]) -> _Turn:
    known = turns.get(id(turn))
    if known is None and turn is not None:
        known = turns[id(turn)] = _Turn(turn.cos.data_ptr(), turn.sin.data_ptr())
    return known or _Turn()
