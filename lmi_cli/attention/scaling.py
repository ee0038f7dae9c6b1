"""Rotary frequencies for texts beyond the trained length.

Each kind changes the inverse frequencies of a model that was trained with a plain set, in which
they are a geometric sequence from 1 down. Nothing else about attention changes.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec, RopeScaling
from lmi_cli.attention.rope import Rotary

_FAST_TURNS, _SLOW_TURNS = 32.0, 1.0
"""YaRN keeps frequencies that turn more often within the trained length than the first of these,
and divides those that turn less often than the second."""

_PLAIN = 1e-5
"""Largest relative deviation of a frequency, a float32, from a geometric sequence."""


def scaled(
    layers: Iterable[LayerSpec], scaling: RopeScaling, trained_length: int
) -> list[LayerSpec] | None:
    """The layers with scaled frequencies.

    A layer whose own sliding window is no wider than the trained length sees no distance that it
    was not trained for, and stays as it is.

    Args:
        layers: The layers of a model.
        scaling: Kind and factor.
        trained_length: Tokens.

    Returns:
        The layers; None if frequencies of one of them are not plain, so that they have been scaled
        before.
    """
    done: dict[int, Rotary] = {}  # layers that share frequencies go on sharing them
    result = []
    for layer in layers:
        rotary, window = layer.rotary, layer.native_window
        if rotary is not None and (window is None or window > trained_length):
            if not _is_plain(rotary.inv_freq):
                return None
            if id(rotary) not in done:
                done[id(rotary)] = _scaled(rotary, scaling, trained_length)
            layer = replace(layer, rotary=done[id(rotary)])
        result.append(layer)
    return result


def _is_plain(inv_freq: Tensor) -> bool:
    wide = inv_freq.double()
    share = torch.arange(len(wide), dtype=torch.float64) / max(1, len(wide) - 1)
    expected = wide[-1] ** share
    return bool(((wide - expected).abs() <= _PLAIN * expected).all())


def _scaled(rotary: Rotary, scaling: RopeScaling, trained_length: int) -> Rotary:
    inv_freq, factor = rotary.inv_freq.double(), float(scaling.factor)
    score_factor = rotary.score_factor
    match scaling.kind:
        case "linear":
            # Chen et al. 2023 (arXiv 2306.15595): positions are divided.
            inv_freq = inv_freq / factor
        case "dynamic":
            inv_freq = _ntk(inv_freq, factor)
        case "yarn":
            inv_freq = _yarn(inv_freq, factor, trained_length)
            # Section 3.4: the square root of this is applied to queries and to keys.
            score_factor *= (0.1 * math.log(factor) + 1.0) ** 2
        case "truncated":
            inv_freq = _truncated(inv_freq, trained_length)
        case kind:
            raise ValueError(f"no scaling of the kind {kind}")
    return replace(rotary, inv_freq=inv_freq.float(), score_factor=score_factor)


def _ntk(inv_freq: Tensor, factor: float) -> Tensor:
    """NTK-aware scaling (YaRN, arXiv 2309.00071, section 3.1): another base.

    ``base * factor ** (d / (d - 2))`` leaves the highest of ``d / 2`` frequencies as it is and
    divides the lowest by ``factor``. It is dynamic where the factor follows from the length of the
    text (section 3.3); cached keys are rotated, so it is computed once.
    """
    share = torch.arange(len(inv_freq), dtype=torch.float64) / max(1, len(inv_freq) - 1)
    return inv_freq * factor**-share


def _yarn(inv_freq: Tensor, factor: float, trained_length: int) -> Tensor:
    """NTK-by-parts (YaRN, arXiv 2309.00071, section 3.2), with the ramp of the authors' code.

    There the ramp between kept and divided frequencies is linear in their index, and its ends are
    whole numbers.
    """
    pairs = len(inv_freq)
    # How far the logarithm of the wavelength advances from one frequency to the next.
    step = -math.log(float(inv_freq[-1])) / max(1, pairs - 1)
    low, high = (
        math.log(trained_length / (turns * 2 * math.pi)) / step
        for turns in (_FAST_TURNS, _SLOW_TURNS)
    )
    first, last = max(math.floor(low), 0), min(math.ceil(high), 2 * pairs - 1)
    width = max(last - first, 0.001)
    divided = ((torch.arange(pairs, dtype=torch.float64) - first) / width).clamp(0.0, 1.0)
    return inv_freq / factor * divided + inv_freq * (1.0 - divided)


def _truncated(inv_freq: Tensor, trained_length: int) -> Tensor:
    """Giraffe's truncated basis (Pal et al. 2023, arXiv 2308.10882), with the published cuts.

    Frequencies that turn fully within the trained length are kept, those slower than an eighth of
    that do not turn at all, and those in between all get one low frequency, half the latter.
    """
    full = 2 * math.pi / trained_length
    low = torch.where(inv_freq >= full / 8, full / 16, 0.0)
    return torch.where(inv_freq >= full, inv_freq, low)
