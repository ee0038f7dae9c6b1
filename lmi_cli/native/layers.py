"""What a decoder layer does around its attention; see ``layers.c``.

Every tensor is bfloat16 on the CPU and, where nothing else is said, contiguous.
"""

import torch
from torch import Tensor

from lmi_cli.native.library import opened, takes

_LANES = 32
"""Sizes must be multiples of this."""


def can(*tensors: Tensor) -> bool:
    """Whether the library computes with tensors whose rows are as long as these."""
    return all(
        takes(tensor) and tensor.shape[-1] % _LANES == 0 and tensor.is_contiguous()
        for tensor in tensors
    )


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """Add ``delta`` to ``x`` in place, and return its rows divided by their root mean square.

    Args:
        x: ``[..., size]``.
        delta: The same shape, or None.
        weight: ``[size]``; multiplies the result.
        epsilon: Added to the mean square.
    """
    out = torch.empty_like(x)
    size = x.shape[-1]
    opened().lmi_add_norm(
        x.data_ptr(),
        None if delta is None else delta.data_ptr(),
        weight.data_ptr(),
        epsilon,
        x.numel() // size,
        size,
        out.data_ptr(),
    )
    return out


def gate(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``, ``[..., size]``, of both side by side, ``[..., 2 * size]``."""
    size = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], size)
    opened().lmi_gate(gate_up.data_ptr(), out.numel() // size, size, out.data_ptr())
    return out


def can_rotate(x: Tensor) -> bool:
    """Whether the library rotates such a tensor, ``[1, heads, tokens, size]``."""
    return takes(x) and len(x) == 1 and x.shape[-1] % _LANES == 0 and x.stride(-1) == 1


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of halves; see :class:`lmi_cli.attention.rope.Turn`.

    Args:
        x: ``[1, heads, tokens, size]``; only its last dimension must be contiguous.
        cos: float32 ``[tokens, size]`` or ``[1, size]``.
        sin: Like ``cos``.
    """
    _, heads, tokens, size = x.shape
    out = torch.empty(x.shape, dtype=x.dtype)
    opened().lmi_rotate(
        x.data_ptr(),
        x.stride(1),
        x.stride(2),
        cos.data_ptr(),
        sin.data_ptr(),
        size if len(cos) > 1 else 0,
        heads,
        tokens,
        size,
        out.data_ptr(),
    )
    return out
