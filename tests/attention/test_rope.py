"""Phases against arithmetic of sixty digits, and the rotation against complex numbers."""

import mpmath
import pytest
import torch
from reference import turning

from lmi_cli.attention.rope import Rotary, phase_dtype

INV_FREQ = 1.0 / 10000.0 ** (torch.arange(0, 16, 2) / 16)
CPU = torch.device("cpu")
POSITIONS = [0, 1, 4095, 2**24 + 1, 2**29 - 1, 2**29, 2**29 + 1, 200_000_000, 2**31 - 1, 2**31 + 1]
FAR = [2**40, 2**50 - 1, 2**50, 2**58 - 1]


@pytest.mark.parametrize("position", POSITIONS + FAR)
def test_phases_are_exact(position: int) -> None:
    cos, sin = Rotary(INV_FREQ).phases(torch.tensor([position]), torch.float64, CPU)
    with mpmath.workdps(60):
        for pair, frequency in enumerate(INV_FREQ.tolist()):
            angle = position * mpmath.mpf(frequency)
            assert abs(float(mpmath.cos(angle) - mpmath.mpf(cos[0, pair].item()))) < 5e-16
            assert abs(float(mpmath.sin(angle) - mpmath.mpf(sin[0, pair].item()))) < 5e-16


def test_phases_of_many_positions_are_those_of_each() -> None:
    """Near and far positions in one call, in any order."""
    rotary, positions = Rotary(INV_FREQ), torch.tensor([2**31, 3, 2**29, 2**40, 0])
    together = rotary.phases(positions, torch.float64, CPU)
    for row, position in enumerate(positions):
        alone = rotary.phases(position[None], torch.float64, CPU)
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[row], one[0], rtol=0, atol=5e-16)


def test_no_position_at_all() -> None:
    cos, _ = Rotary(INV_FREQ).phases(torch.tensor([], dtype=torch.int64), torch.float32, CPU)
    assert cos.shape == (0, 8)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [16, 22], ids=["whole", "partial"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_rotation(interleaved: bool, size: int, scale: float) -> None:
    rotary, positions = Rotary(INV_FREQ, interleaved), torch.tensor([0, 3, 77, 1000])
    x = torch.randn(2, 3, 4, size, dtype=torch.float64)
    before = x.clone()
    ours = rotary.rotate(x, rotary.phases(positions, torch.float64, CPU), scale)
    torch.testing.assert_close(
        ours, turning(INV_FREQ, interleaved)(x, positions) * scale, rtol=0, atol=1e-13
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_rounded_once(dtype: torch.dtype) -> None:
    rotary, positions = Rotary(INV_FREQ), torch.arange(64)
    x = torch.randn(64, 20).to(dtype)
    ours = rotary.rotate(x, rotary.phases(positions, phase_dtype(dtype), CPU), 0.3)
    wide = x.float()
    exact = rotary.rotate(wide, rotary.phases(positions, torch.float32, CPU), 0.3)
    assert ours.dtype == dtype
    assert torch.equal(ours, exact.to(dtype))
