"""Rotary position embedding with phases that stay exact at any position.

Su et al. 2021 (arXiv 2104.09864): pair ``p`` of the components of a head at position ``n`` is
rotated by the angle ``n * inv_freq[p]``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lmi_cli.native import pointwise as native

# An inverse frequency is a float32, so it has 24 significant bits, and float64 holds its product
# with an integer below 2**29 without rounding.
_EXACT_BITS = 29


class Phases(NamedTuple):
    """Cosine and sine of the rotation angles, both ``[tokens, pairs]``."""

    cos: Tensor
    sin: Tensor


class Rotation(NamedTuple):
    """Factors for each component of a head and for the other component of its pair.

    Attributes:
        cos: For the component itself, ``[tokens, 2 * pairs]``, the scale included.
        sin: For the other component, with its sign; otherwise like ``cos``.
        scale: For the components that are not rotated.
    """

    cos: Tensor
    sin: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Rotary:
    """One set of rotary frequencies.

    Attributes:
        inv_freq: Inverse frequencies in radians per token, float32, ``[pairs]``, on the CPU, as the
            model loaded them.
        interleaved: True if a pair is two neighbours ``(2p, 2p + 1)`` of the head, False if it is
            ``(p, p + pairs)``. Components beyond ``2 * pairs`` are not rotated.
        score_factor: Factor on every score of a layer with these frequencies.
    """

    inv_freq: Tensor
    interleaved: bool = False
    score_factor: float = 1.0

    def phases(self, positions: Tensor, dtype: torch.dtype, device: torch.device) -> Phases:
        """Phases at ``positions`` (int64, ``[tokens]``, below 2**58).

        The angle is exact: positions are split so that each part times a frequency fits a float64,
        and the two rotations are composed. The only errors are those of float64 cosines and of the
        final rounding to ``dtype``, which must be float32 or float64.
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
        """Rotate ``x`` (``[..., tokens, head size]``) by ``phases`` and multiply it by ``scale``.

        Computed in the dtype of the phases and rounded once, to the dtype of ``x``.
        """
        return self.apply(x, self.rotation(phases, scale))

    def rotation(self, phases: Phases, scale: float = 1.0) -> Rotation:
        """The factors of :meth:`rotate`, to be computed once and applied many times."""
        cos, sin = phases
        pair = ((cos, cos), (-sin, sin))
        if self.interleaved:
            cos, sin = (torch.stack(parts, -1).flatten(-2) for parts in pair)
        else:
            cos, sin = (torch.cat(parts, -1) for parts in pair)
        return Rotation(cos * scale, sin * scale, scale)

    def apply(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Apply the factors of :meth:`rotation` to ``x``; see :meth:`rotate`."""
        size = rotation.cos.shape[-1]
        if not self.interleaved and size == x.shape[-1] and native.can_rotate(x):
            return native.rotate(x, rotation.cos, rotation.sin)
        wide = x[..., :size].to(rotation.cos.dtype)
        if self.interleaved:
            partner = wide.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            partner = torch.cat((wide[..., size // 2 :], wide[..., : size // 2]), -1)
        out = (wide * rotation.cos).addcmul_(partner, rotation.sin)
        if size < x.shape[-1]:
            out = torch.cat((out, x[..., size:] * rotation.scale), -1)
        return out.to(x.dtype)


def phase_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tensors of ``dtype`` are rotated: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
