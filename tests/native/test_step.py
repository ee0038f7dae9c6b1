"""A few tokens in one step get exactly what they get one after another."""

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.ranges import TokenRange, TokenView
from lmi_cli.attention.rope import Rotation
from lmi_cli.native.linear import PackedLinear
from lmi_cli.native.step import StepLayer, Stepper

pytestmark = pytest.mark.usefixtures("each_unit")

HEADS, SIZE, HIDDEN, INNER, KEYS, SINKS, WINDOW = (6, 2), 64, 160, 96, 700, 9, 600


def normal(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def layer(bits: int) -> StepLayer:
    gated = PackedLinear.join_gated(normal(INNER, HIDDEN) / 12, normal(INNER, HIDDEN) / 12)
    shapes = ((640, HIDDEN), (HIDDEN, 384), (HIDDEN, INNER))
    qkv, output, down = (PackedLinear.join([normal(*shape) / 12]) for shape in shapes)
    linears = [qkv, output, gated, down]
    if bits < 16:
        linears = [each.quantized(bits) for each in linears]
    return StepLayer(linears, (normal(HIDDEN), normal(HIDDEN), normal(SIZE), normal(SIZE)))


def turn(tokens: int) -> Rotation:
    angle = torch.randn(tokens, SIZE)
    return Rotation(angle.cos(), angle.sin(), 1.0)


def some(rotation: Rotation, first: int, stop: int) -> Rotation:
    return Rotation(rotation.cos[first:stop], rotation.sin[first:stop], 1.0)


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("tokens", [2, 5, 8])
def test_a_few_tokens_at_once(tokens: int, bits: int) -> None:
    stepper = Stepper([layer(bits), layer(bits)], HEADS, epsilon=1e-5, scale=0.125)
    first = KEYS - tokens
    caches = [tuple(normal(1, 2, KEYS, SIZE) for _ in range(4)) for _ in range(2)]
    turns, fixed = turn(tokens), turn(1)

    def step(x: Tensor, tensors: list[tuple[Tensor, ...]], done: int, stop: int) -> Tensor:
        """Take tokens number ``done`` to ``stop``, whose residuals are ``x``."""
        own = some(turns, done, stop)
        views = []
        for key, value, sink_key, sink_value in tensors:
            near = TokenRange(own, key, value, 0, first + stop, 0, 0, WINDOW)
            far = TokenRange(fixed, sink_key, sink_value, 0, SINKS, 0, WINDOW)
            views.append(TokenView((near, far), key, value, first + done, own))
        stepper.step(x, views, first + done)
        return x

    x = normal(1, tokens, HIDDEN)
    apart = [tuple(tensor.clone() for tensor in tensors) for tensors in caches]
    alone = [step(x[:, at : at + 1].clone(), apart, at, at + 1) for at in range(tokens)]
    together = step(x.clone(), caches, 0, tokens)
    assert torch.equal(together, torch.cat(alone, 1))
    for found, expected in zip(caches, apart, strict=True):
        assert all(map(torch.equal, found, expected))
    assert not torch.equal(together, x)
