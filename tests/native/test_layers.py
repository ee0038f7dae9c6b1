"""Normalisation, gating and rotation in C against torch in float64, rounded where stock rounds."""

import math

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.rope import Rotary
from lmi_cli.native import layers

pytestmark = pytest.mark.usefixtures("c_library")

EPSILON = 1e-5


def normalised(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    scaled = wide / (wide.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt()
    return (scaled.bfloat16().double() * weight.double()).bfloat16()


def nearly(found: Tensor, expected: Tensor) -> None:
    """Equal but where one of two roundings fell the other way."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=2**-6, atol=1e-30)
    assert (found == expected).float().mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1, 32), (1, 7, 96), (2, 33, 576), (1, 5, 3, 64)])
def test_add_norm(shape: tuple[int, ...]) -> None:
    x, delta = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()
    weight = torch.randn(shape[-1]).bfloat16()
    before = x.clone()
    nearly(layers.add_norm(x, None, weight, EPSILON), normalised(before, weight))
    assert torch.equal(x, before)
    out = layers.add_norm(x, delta, weight, EPSILON)
    assert torch.equal(x, before + delta)
    nearly(out, normalised(before + delta, weight))


@pytest.mark.parametrize("rows", [1, 16, 40])
@pytest.mark.parametrize("size", [32, 96, 1536])
def test_gate(rows: int, size: int) -> None:
    both = (torch.randn(1, rows, 2 * size) * 4).bfloat16()
    both[0, 0, :6] = torch.tensor([0.0, -0.0, 90.0, -90.0, 3e38, -3e38])
    gate, up = both.double().chunk(2, -1)
    expected = ((gate * torch.sigmoid(gate)).bfloat16().double() * up).bfloat16()
    nearly(layers.gate(both), expected)


def test_gate_keeps_what_is_not_a_number() -> None:
    both = torch.ones(1, 1, 64).bfloat16()
    both[0, 0, 3], both[0, 0, 40] = math.nan, math.nan
    found = layers.gate(both)
    assert found.isnan().nonzero()[:, 2].tolist() == [3, 8]


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("rows", [1, 5, 30])
@pytest.mark.parametrize("fixed", [True, False])
def test_rotate(size: int, rows: int, fixed: bool) -> None:
    rotary = Rotary(100.0 ** (-torch.arange(0, size, 2) / size))
    positions = torch.tensor([700]) if fixed else torch.arange(1000, 1000 + rows)
    turn = rotary.turn(rotary.phases(positions, torch.float32, torch.device("cpu")), 0.25)
    x = torch.randn(1, rows, 5, size).bfloat16().transpose(1, 2)  # as a projection leaves it
    found = rotary.apply(x, turn)
    exact = rotary.turn(rotary.phases(positions, torch.float64, torch.device("cpu")), 0.25)
    nearly(found, rotary.apply(x.double(), exact).bfloat16())


def test_what_it_does_not_take() -> None:
    usual = torch.randn(1, 2, 3, 64).bfloat16()
    assert layers.can(usual)
    assert layers.can_rotate(usual)
    assert not layers.can(usual, torch.randn(64))
    assert not layers.can(usual[..., :48])
    assert not layers.can(usual.transpose(1, 2))
    assert layers.can_rotate(usual.transpose(1, 2))
    assert not layers.can_rotate(usual.repeat(2, 1, 1, 1))
    assert not layers.can_rotate(usual.transpose(-1, -2))
