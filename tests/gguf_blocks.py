"""Weights as they lie in GGUF files, and what a linear layer in C keeps of them."""

from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor

from lmi_cli.native.kinds import GGUF_KINDS

Q4_K, Q5_K, Q6_K = 12, 13, 14
_ONE = (0, 0x3C)  # in half precision
# Scales and minima of Q4_K and Q5_K, six bits each: eight ones and eight zeros.
_UNIT_SCALES = (1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1)


def raw_blocks(kind: int, rows: int, columns: int) -> Tensor:
    """A weight ``[rows, columns]`` with deviations around one, in blocks of a kind.

    ``gguf`` quantises to some formats; for others, all bytes are random but for the scales.
    """
    shape = GGUF_KINDS[kind]
    if shape.columns == 32:
        weight = np.random.default_rng(rows).standard_normal((rows, columns), np.float32)
        return torch.from_numpy(quants.quantize(weight, GGMLQuantizationType(kind)))
    blocks = torch.randint(0, 256, (rows, columns // shape.columns, shape.nbytes)).byte()
    # A code times six bits times this is about one. Some scales are negative, and of some all
    # products are below what half precision holds with eleven bits.
    scale = torch.rand(rows, columns // shape.columns, 1) * 2**-8
    scale[::7] *= -1
    scale[3::11] *= 2**-12
    place = slice(208, 210) if kind == Q6_K else slice(0, 2)
    blocks[..., place] = scale.half().view(torch.uint8)
    if kind != Q6_K:
        blocks[..., 2:4] = (8 * scale).half().view(torch.uint8)
    return blocks.flatten(1)


def dequantized(kind: int, raw: Tensor) -> Tensor:
    """The weight by the arithmetic of llama.cpp."""
    return torch.from_numpy(quants.dequantize(raw.numpy(), GGMLQuantizationType(kind))).double()


class Kept(NamedTuple):
    """What a linear layer keeps.

    Attributes:
        weight: The exact weight, float64.
        reach: The largest that a code could make of it, the minimum added: what rounding to float32
            on the way to a weight is relative to.
    """

    weight: Tensor
    reach: Tensor


def kept(kind: int, raw: Tensor) -> Kept:
    """Scales, and for K formats products of two scales, in half precision, times whole codes."""
    shape = GGUF_KINDS[kind]
    blocks = raw.numpy().reshape(-1, shape.nbytes).copy()
    minimum = np.zeros((len(blocks), 1))
    if kind in (Q4_K, Q5_K):
        low, high = quants.Q4_K.get_scale_min(blocks[:, 4:16].copy())
        scale, minimum = _half(blocks[:, :2]) * low, _half(blocks[:, 2:4]) * high
        blocks[:, :16] = (*_ONE, 0, 0, *_UNIT_SCALES)
    elif kind == Q6_K:
        scale = _half(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8)
        blocks[:, 192:] = (*[1] * 16, *_ONE)
    else:
        scale = _half(blocks[:, :2])
        blocks[:, :2] = _ONE
        if shape.has_minimum:
            minimum = -_half(blocks[:, 2:4])
            blocks[:, 2:4] = 0
    whole = quants.dequantize(blocks, GGMLQuantizationType(kind)).astype(np.float64)
    factor, less = (
        np.repeat(x.astype(np.float16).astype(np.float64), shape.columns // x.shape[1], 1)
        for x in (scale, minimum)
    )
    weight, reach = factor * whole - less, np.abs(factor) * 2**shape.bits + np.abs(less)
    return Kept(*(torch.from_numpy(x.reshape(len(raw), -1)) for x in (weight, reach)))


def _half(raw: np.ndarray) -> np.ndarray:
    return raw.copy().view(np.float16).astype(np.float64)
