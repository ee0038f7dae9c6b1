"""Linear layers rounded to eight and four bits a weight."""

import math

import pytest
import torch
from torch import Tensor

from lmi_cli.native.linear import PackedLinear
from lmi_cli.native.variants import Variant

SHAPES = [(1, 32), (64, 96), (100, 160), (320, 64), (70, 640)]
COUNTS = [1, 5, 16, 17, 33, 250]


def in_blocks(weight: Tensor) -> Tensor:
    return weight.double().unflatten(1, (-1, 32))


def rounded_to_bytes(weight: Tensor) -> Tensor:
    """The weight in 127 parts of the largest of each block, in half precision as they are kept."""
    wide = in_blocks(weight).float()
    unit = (wide.abs().amax(-1, keepdim=True) / 127).half().float()
    codes = (wide / unit.clamp_min(2**-24)).round().clamp(-127, 127)
    return (codes * unit).double().flatten(1)


def rounded_plainly(weight: Tensor) -> Tensor:
    """The weight in sixteen levels from the lowest of each block to the highest."""
    wide = in_blocks(weight)
    low, high = wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True)
    step = (high - low).clamp_min(1e-30) / 15
    return (((wide - low) / step).round() * step + low).flatten(1)


def all_weights(linear: PackedLinear) -> Tensor:
    return linear.weights(0, linear.rows)


def test_eight_bits_are_as_near_as_they_can_be(each_library: Variant) -> None:
    weight = torch.randn(150, 320).bfloat16() * torch.logspace(-3, 3, 150)[:, None].bfloat16()
    found = all_weights(PackedLinear.join([weight]).quantized(8))
    assert torch.equal(found, rounded_to_bytes(weight).bfloat16())
    most = in_blocks(weight).abs().amax(-1, keepdim=True)
    # Half a step, which half precision may have made larger; or what the largest lost, if smaller.
    limit = most / 127 * (0.5 + 2**-11) + 127 * 2**-25
    assert (in_blocks(rounded_to_bytes(weight) - weight.double()).abs() <= limit).all()


@pytest.mark.parametrize("tokens", COUNTS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_eight_bits(
    tokens: int, outputs: int, inputs: int, biased: bool, each_unit: Variant
) -> None:
    """Budgets as in test_blocks.py: nothing else is different about these blocks."""
    x, weight = torch.randn(tokens, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    x[0, 3] = 60.0  # far from the others, as real activations are
    weight[0] = 0.0
    bias = torch.randn(outputs).bfloat16() if biased else None
    linear = PackedLinear.join([weight], bias)
    found = linear.quantized(8)
    exact = rounded_to_bytes(weight)
    reach = x.double().abs() @ in_blocks(weight).abs().amax(-1).repeat_interleave(32, 1).T
    limit = reach * 2**-17
    if tokens <= 16:
        most = in_blocks(x).abs().amax(-1)
        limit = limit + 0.51 / 32512 * most @ in_blocks(exact).abs().sum(-1).T
    elif each_unit.name == "avx512-bf16":
        exact = exact.bfloat16().double()
    expected = x.double() @ exact.T + (0 if bias is None else bias.double())
    wide = found.wide(x)
    assert ((wide.double() - expected).abs() <= limit + expected.abs() * 2**-23).all()
    assert found.nbytes < linear.nbytes * 0.6
    assert torch.equal(found(x), wide.bfloat16())
    to = torch.zeros(tokens, outputs).bfloat16()
    found.add(x, to)
    assert torch.equal(to, found(x))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 7])
def test_gate_and_up_of_few_bits(bits: int, tokens: int, each_unit: Variant) -> None:
    """They are rounded as they are alone, to the last bit; the last panel is half empty."""
    x = torch.randn(tokens, 64).bfloat16()
    gate, up = (torch.randn(80, 64).bfloat16() for _ in range(2))
    found = PackedLinear.join_gated(gate, up).quantized(bits).gated(x, "silu")
    left, right = (PackedLinear.join([part]).quantized(bits)(x).float() for part in (gate, up))
    expected = torch.nn.functional.silu(left).bfloat16() * right
    torch.testing.assert_close(found.float(), expected, rtol=2**-6, atol=1e-30)


def test_four_bits_are_nearer_than_plain_rounding(each_library: Variant) -> None:
    weight = torch.randn(192, 640).bfloat16()
    found = all_weights(PackedLinear.join([weight]).quantized(4)).double() - weight.double()
    plain = rounded_plainly(weight) - weight.double()
    assert found.pow(2).mean() < 0.95 * plain.pow(2).mean()
    worse = in_blocks(found).pow(2).sum(-1) > 1.1 * in_blocks(plain).pow(2).sum(-1)
    assert not worse.any()


@pytest.mark.parametrize("tokens", COUNTS)
def test_products_of_four_bits(tokens: int, each_unit: Variant) -> None:
    """Those of the weights that the layer gives back, which it has rounded to bfloat16."""
    x, bias = torch.randn(tokens, 160).bfloat16(), torch.randn(100).bfloat16()
    linear = PackedLinear.join([torch.randn(100, 160).bfloat16()], bias).quantized(4)
    weight = all_weights(linear).double()
    expected, size = x.double() @ weight.T + bias.double(), x.double().abs() @ weight.abs().T
    assert ((linear.wide(x).double() - expected).abs() <= 2**-8 * size).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_that_leave_nothing_to_choose(bits: int, each_unit: Variant) -> None:
    """Equal weights, zeros, two values, and one weight that is not zero; in a panel with room."""
    weight = torch.zeros(65, 128)
    weight[:, :32] = torch.linspace(-2, 2, 65)[:, None]
    weight[:, 64:80], weight[:, 80:96] = -0.5, 0.75
    weight[:, 100] = 3.0
    weight = weight.bfloat16()
    linear = PackedLinear.join([weight]).quantized(bits)
    # A scale and a minimum in half precision, or a scale of which there are 127.
    torch.testing.assert_close(all_weights(linear), weight, rtol=2**-7, atol=2**-8 * 0.75)
    assert not all_weights(linear)[:, 32:64].any()
    for tokens in (1, 9):
        x = torch.ones(tokens, 128).bfloat16()
        expected = (x.double() @ all_weights(linear).double().T).float()
        torch.testing.assert_close(linear.wide(x), expected, rtol=0, atol=0.5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, 1e7])
def test_a_weight_that_half_precision_cannot_hold_does_not_vanish(
    bits: int, value: float, each_unit: Variant
) -> None:
    weight = torch.randn(70, 64).bfloat16()
    weight[3, 5] = value
    if bits == 4:
        weight[3, 5:32] = value  # also where all others of the block are alike
    linear = PackedLinear.join([weight]).quantized(bits)
    for tokens in (1, 9):
        out = linear(torch.ones(tokens, 64).bfloat16())
        assert not out[:, 3].isfinite().any()
        assert out[:, :3].isfinite().all() and out[:, 4:].isfinite().all()


@pytest.mark.parametrize("bits", [4, 8])
def test_only_bfloat16_is_rounded(bits: int, each_library: Variant) -> None:
    """A layer keeps its parts in order, also where two of bfloat16 are of one size."""
    ends = [torch.randn(64, 64).bfloat16() for _ in range(2)]
    eight = PackedLinear.join([torch.randn(64, 64).bfloat16()]).quantized(8)
    first, last = (PackedLinear.join([end]) for end in ends)
    joined = PackedLinear([*first.parts, *eight.parts, *last.parts], 64).quantized(bits)
    assert [part.bits for part in joined.parts] == [bits, 8, bits]
    alone = [first.quantized(bits), eight, last.quantized(bits)]
    assert torch.equal(all_weights(joined), torch.cat([all_weights(part) for part in alone]))
    assert joined.parts[1] is eight.parts[0]
