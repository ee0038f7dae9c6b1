"""Normalisation and rotation in C against torch in float64, rounded where stock rounds."""

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.rope import Rotary
from lmi_cli.native import pointwise

pytestmark = pytest.mark.usefixtures("each_library")

EPSILON = 1e-5


def normalised(x: Tensor, weight: Tensor, twice: bool) -> Tensor:
    wide = x.double()
    scaled = wide / (wide.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt()
    scaled = scaled.bfloat16().double() if twice else scaled
    return (scaled * weight.double()).bfloat16()


def nearly(found: Tensor, expected: Tensor) -> None:
    """Equal but where one of two roundings fell the other way."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=2**-6, atol=1e-30)
    assert (found == expected).float().mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1, 32), (1, 7, 96), (2, 33, 576), (1, 5, 3, 64)])
@pytest.mark.parametrize("twice", [True, False])
def test_norm(shape: tuple[int, ...], twice: bool) -> None:
    x, weight = torch.randn(shape).bfloat16(), torch.randn(shape[-1])
    before = x.clone()
    nearly(pointwise.norm(x, weight, EPSILON, twice), normalised(x, weight, twice))
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("rows", [1, 5, 30])
@pytest.mark.parametrize("fixed", [True, False])
def test_rotate(size: int, rows: int, fixed: bool) -> None:
    rotary = Rotary(100.0 ** (-torch.arange(0, size, 2) / size))
    positions = torch.tensor([700]) if fixed else torch.arange(1000, 1000 + rows)
    rotation = rotary.rotation(rotary.phases(positions, torch.float32, torch.device("cpu")), 0.25)
    x = torch.randn(1, rows, 5, size).bfloat16().transpose(1, 2)  # as a projection leaves it
    found = rotary.apply(x, rotation)
    exact = rotary.rotation(rotary.phases(positions, torch.float64, torch.device("cpu")), 0.25)
    nearly(found, rotary.apply(x.double(), exact).bfloat16())


def test_what_it_does_not_take() -> None:
    usual = torch.randn(1, 2, 3, 64).bfloat16()
    assert pointwise.can_norm(usual)
    assert pointwise.can_rotate(usual)
    assert not pointwise.can_norm(usual.float())
    assert not pointwise.can_norm(usual[..., :48])
    assert not pointwise.can_norm(usual.transpose(1, 2))
    assert pointwise.can_rotate(usual.transpose(1, 2))
    assert not pointwise.can_rotate(usual.repeat(2, 1, 1, 1))
    assert not pointwise.can_rotate(usual.transpose(-1, -2))
