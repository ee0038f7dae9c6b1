"""Normalisation and rotation of many tokens; see ``pointwise.c``."""

import torch
from torch import Tensor

from lmi_cli.native.kinds import LANES
from lmi_cli.native.library import opened, takes


def can_norm(x: Tensor) -> bool:
    """Whether the library can normalise the rows of such a tensor, ``[..., size]``."""
    return takes(x) and x.shape[-1] % LANES == 0 and x.is_contiguous()


def norm(x: Tensor, weight: Tensor, epsilon: float, twice: bool = True) -> Tensor:
    """The rows of ``x`` divided by their root mean square, times ``weight``.

    Args:
        x: bfloat16 ``[..., size]``.
        weight: float32 ``[size]``.
        epsilon: Added to the mean square.
        twice: Whether the quotient is rounded before it is multiplied, as Llama does it.

    Raises:
        ValueError: The weight has another shape or dtype, or is not contiguous.
    """
    out = torch.empty_like(x)
    size = x.shape[-1]
    usual = weight.dtype is torch.float32 and weight.is_contiguous()
    if weight.shape != (size,) or not usual:
        raise ValueError(f"a weight {weight.dtype} {list(weight.shape)} for rows of {size}")
    opened().lmi_norm(
        x.data_ptr(), weight.data_ptr(), epsilon, twice, x.numel() // size, size, out.data_ptr()
    )
    return out


def can_rotate(x: Tensor) -> bool:
    """Whether the library can rotate such a tensor, ``[1, heads, tokens, size]``."""
    return takes(x) and len(x) == 1 and x.shape[-1] % LANES == 0 and x.stride(-1) == 1


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding that pairs the two halves; see :class:`lmi_cli.attention.rope.Rotation`.

    Args:
        x: bfloat16 ``[1, heads, tokens, size]``; only its last dimension must be contiguous.
        cos: float32 ``[tokens, size]`` or ``[1, size]``.
        sin: Like ``cos``.

    Raises:
        ValueError: The phases have another shape or dtype, or are not contiguous.
    """
    _, heads, tokens, size = x.shape
    for phases in (cos, sin):
        usual = phases.dtype is torch.float32 and phases.is_contiguous()
        if phases.shape not in ((tokens, size), (1, size)) or not usual:
            raise ValueError(f"phases {list(phases.shape)} for {tokens} tokens of {size}")
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
