"""Rotary position embedding with phases that stay exact at any position.

Su et al. 2021 (arXiv 2104.09864): the pair of components ``(a, b)`` number ``p`` of a head at
position ``n`` is turned by the angle ``n * inv_freq[p]``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# An inverse frequency is a float32, so it has 24 significant bits, and float64 holds its product
# with an integer below 2**29 without rounding.
_EXACT_BITS = 29


class Phases(NamedTuple):
    """Cosine and sine of the rotation angles, both ``[tokens, pairs]``."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, eq=False)
class Rotary:
    """One set of rotary frequencies.

    Attributes:
        inv_freq: Inverse frequencies in radians per token, float32, ``[pairs]``, on the CPU, as the
            model loaded them.
        interleaved: True where a pair is two neighbours ``(2p, 2p + 1)`` of the head, False where
            it is ``(p, p + pairs)``. Components beyond ``2 * pairs`` are not rotated.
    """

    inv_freq: Tensor
    interleaved: bool = False

    def phases(self, positions: Tensor, dtype: torch.dtype, device: torch.device) -> Phases:
        """Phases at ``positions`` (int64, ``[tokens]``, below 2**58).

        The angle is exact: positions are split so that each part times a frequency fits a float64,
        and the two rotations are composed. The error is that of float64 cosines and of the last
        rounding to ``dtype``, which must be float32 or float64.
        """
        inv_freq = self.inv_freq.double()
        positions = positions.cpu()
        low = (positions & ((1 << _EXACT_BITS) - 1)).double()
        angle = low[:, None] * inv_freq
        cos, sin = angle.cos(), angle.sin()
        if positions.numel() and int(positions.max()) >> _EXACT_BITS:
            high = (positions >> _EXACT_BITS).double()
            angle = high[:, None] * (inv_freq * float(1 << _EXACT_BITS))
            high_cos, high_sin = angle.cos(), angle.sin()
            cos, sin = cos * high_cos - sin * high_sin, sin * high_cos + cos * high_sin
        return Phases(cos.to(device, dtype), sin.to(device, dtype))

    def rotate(self, x: Tensor, phases: Phases, scale: float = 1.0) -> Tensor:
        """Turn ``x`` (``[..., tokens, head size]``) by ``phases`` and multiply it by ``scale``.

        Computed in the dtype of the phases and rounded once, to the dtype of ``x``.
        """
        cos, sin = phases
        pairs = cos.shape[-1]
        if self.interleaved:
            first, second = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
        else:
            first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
        if scale != 1.0:
            cos, sin = cos * scale, sin * scale
        turned = (first * cos - second * sin, second * cos + first * sin)
        out = torch.empty_like(x)
        if self.interleaved:
            out[..., 0 : 2 * pairs : 2], out[..., 1 : 2 * pairs : 2] = turned
        else:
            out[..., :pairs], out[..., pairs : 2 * pairs] = turned
        if 2 * pairs < x.shape[-1]:
            out[..., 2 * pairs :] = x[..., 2 * pairs :] * scale
        return out


def phase_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tensors of ``dtype`` are rotated: float64 for itself, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
