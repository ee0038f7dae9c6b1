"""A few tokens in one step get exactly what they get one after another."""

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.ranges import TokenRange, TokenView
from lmi_cli.attention.rope import Rotation
from lmi_cli.native.linear import PackedLinear
from lmi_cli.native.step import LayerNorms, StepLayer, Stepper

pytestmark = pytest.mark.usefixtures("each_unit")

HEADS, SIZE, HIDDEN, INNER, KEYS, SINKS, WINDOW = (6, 2), 64, 160, 96, 700, 9, 600


def normal(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def layer(bits: int, changed: bool) -> StepLayer:
    gated = PackedLinear.join_gated(normal(INNER, HIDDEN) / 12, normal(INNER, HIDDEN) / 12)
    shapes = ((640, HIDDEN), (HIDDEN, 384), (HIDDEN, INNER))
    qkv, output, down = (PackedLinear.join([normal(*shape) / 12]) for shape in shapes)
    linears = [qkv, output, gated, down]
    if bits < 16:
        linears = [each.quantized(bits) for each in linears]
    before = None if changed else torch.randn(HIDDEN)
    after = torch.randn(HIDDEN) if changed else None
    sizes = [count * SIZE if changed else SIZE for count in HEADS]
    per_head = [torch.randn(size) for size in sizes]
    return StepLayer(linears, LayerNorms(before, after, before, after, *per_head))


def turn(tokens: int) -> Rotation:
    angle = torch.randn(tokens, SIZE)
    return Rotation(angle.cos(), angle.sin(), 1.0)


def some(rotation: Rotation, first: int, stop: int) -> Rotation:
    return Rotation(rotation.cos[first:stop], rotation.sin[first:stop], 1.0)


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("tokens", [2, 5, 8])
@pytest.mark.parametrize("changed", [False, True])
def test_a_few_tokens_at_once(tokens: int, bits: int, changed: bool) -> None:
    """Through layers of the Llama kind, and through those that have what others have."""
    stepper = Stepper(
        [layer(bits, changed), layer(bits, changed)],
        HEADS,
        activation="gelu_pytorch_tanh" if changed else "silu",
        epsilon=1e-5,
        twice=not changed,
        whole_norms=changed,
        scale=0.125,
        residual_scale=0.5 if changed else 1.0,
        softcap=3.0 if changed else None,
    )
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
