"""Numbers in eight bits, with a scale for each row."""

import torch
from torch import Tensor

_LARGEST_CODE = 127


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (int8, like ``x``) and scales (``[..., 1]``, dtype of ``x``).

    Args:
        x: ``[..., D]``. The largest component of each row gets the largest code; the error of a
            component is at most half a scale, and a little more for the largest, since the scale
            is rounded to the dtype.
    """
    scale = x.abs().amax(-1, keepdim=True) / _LARGEST_CODE
    # A row of zeros has the scale 0, and any divisor gives it the right codes.
    codes = (x / scale.masked_fill(scale == 0, 1.0)).round_().clamp_(-_LARGEST_CODE, _LARGEST_CODE)
    return codes.to(torch.int8), scale


def dequantize(codes: Tensor, scale: Tensor | None) -> Tensor:
    """The inverse of :func:`quantize`, in the dtype of ``scale``; ``codes`` if that is None."""
    return codes if scale is None else codes.to(scale.dtype) * scale
