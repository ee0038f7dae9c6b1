"""Linear layers in C against products in float64, rounded where stock rounds."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.native import library
from lmi_cli.native.linear import GATES, PackedLinear

pytestmark = pytest.mark.usefixtures("each_unit")

SHAPES = [(1, 32), (15, 64), (64, 32), (100, 96), (320, 160), (70, 640)]
COUNTS = [1, 2, 5, 6, 7, 16, 17, 32, 33, 100, 250]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    # (1 + tanh(z)) / 2 without what cancels where z is far below zero.
    "gelu_pytorch_tanh": lambda x: x * torch.sigmoid((8 / math.pi) ** 0.5 * (x + 0.044715 * x**3)),
}


def close(found: Tensor, expected: Tensor, size: Tensor) -> None:
    """Equal within float32 sums and one rounding to bfloat16, ``size`` summed without signs."""
    limit = expected.abs() * 2**-8 + size * 2**-22 + 1e-30
    assert found.shape == expected.shape
    assert ((found.double() - expected).abs() <= limit).all()


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The product, and the sum of the sizes of its terms."""
    wide, sized = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    if bias is None:
        return wide, sized
    return wide + bias.double(), sized + bias.double().abs()


@pytest.mark.parametrize("rows", COUNTS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_every_ending(rows: int, outputs: int, inputs: int, biased: bool) -> None:
    x, weight = torch.randn(1, rows, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    bias = torch.randn(outputs).bfloat16() if biased else None
    linear = PackedLinear.join([weight], bias)
    expected, size = exact(x, weight, bias)
    close(linear(x), expected, size)
    wide = linear.wide(x)
    assert wide.dtype == torch.float32
    assert ((wide.double() - expected).abs() <= size * 2**-18).all()
    before = torch.randn(1, rows, outputs).bfloat16()
    to = before.clone()
    linear.add(x, to)
    assert torch.equal(to, before + linear(x))


@pytest.mark.parametrize("rows", COUNTS)
@pytest.mark.parametrize("inner", [32, 96, 160])
@pytest.mark.parametrize("activation", GATES)
def test_gated(rows: int, inner: int, activation: str) -> None:
    """Rounded where stock rounds: the inputs, the gate, the product."""
    x = torch.randn(1, rows, 64).bfloat16()
    gate, up = (torch.randn(inner, 64).bfloat16() for _ in range(2))
    found = PackedLinear.join_gated(gate, up).gated(x, activation)
    left, right = ((x.double() @ weight.double().T).bfloat16().double() for weight in (gate, up))
    active = ACTIVATIONS[activation](left).bfloat16().double()
    expected = active * right
    # Of the roundings before the last, one may have fallen the other way.
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=1e-30)
    assert (found == expected.bfloat16()).float().mean() > 0.95


@pytest.mark.parametrize("activation", GATES)
@pytest.mark.parametrize("rows", [1, 8])
def test_gates_at_their_ends(rows: int, activation: str) -> None:
    """Neither end overflows, and what is not a number stays where it is."""
    values = [0.0, -0.0, 90.0, -90.0, 3e38, -3e38, math.inf, math.nan]
    gate, up = torch.zeros(32, 32).bfloat16(), torch.ones(32, 32).bfloat16() / 32
    gate[: len(values), 0] = torch.tensor(values).bfloat16()
    x = torch.ones(1, rows, 32).bfloat16()
    found = PackedLinear.join_gated(gate, up).gated(x, activation)[0, -1]
    assert found[:3].tolist() == [0.0, 0.0, 90.0] and abs(found[3]) < 1e-36
    assert found[4] > 2e38 and found[5] == 0.0
    assert found[6:8].isnan().tolist() == [False, True]
    assert not found[8:].any()


def test_several_weights_lie_below_each_other() -> None:
    parts = [torch.randn(rows, 64).bfloat16() for rows in (96, 32, 33)]
    x = torch.randn(1, 9, 64).bfloat16()
    joined = PackedLinear.join(parts)(x)
    assert torch.equal(joined, torch.cat([PackedLinear.join([part])(x) for part in parts], -1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3)])
def test_embed_gives_back_what_was_packed(shape: tuple[int, int]) -> None:
    weight = torch.randn(150, 96).bfloat16()
    ids = torch.randint(0, 150, shape)
    ids[0, 0] = 149
    assert torch.equal(PackedLinear.join([weight]).embed(ids), weight[ids])


@pytest.mark.parametrize("beyond", [-1, 150])
def test_an_id_beyond_the_embedding_is_refused(beyond: int) -> None:
    linear = PackedLinear.join([torch.randn(150, 96).bfloat16()])
    with pytest.raises(IndexError, match="150"):
        linear.embed(torch.tensor([[3, beyond]]))


def test_inputs_are_what_was_asked_for() -> None:
    weight, x = torch.randn(40, 64).bfloat16(), torch.randn(1, 9, 128).bfloat16()
    linear = PackedLinear.join([weight])
    assert torch.equal(linear(x[..., ::2]), linear(x[..., ::2].contiguous()))
    with pytest.raises(TypeError, match="64 bfloat16"):
        linear(x)
    with pytest.raises(TypeError, match="64 bfloat16"):
        linear(x[..., :64].float())


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_nothing_that_is_not_finite_is_hidden(rows: int, broken: float) -> None:
    x, weight = torch.randn(rows, 64).bfloat16(), torch.randn(70, 64).bfloat16()
    x[0, 9] = broken
    found = PackedLinear.join([weight])(x)
    assert not found[0].isfinite().any()
    assert found[1:].isfinite().all()
    weight[3, 5] = broken
    found = PackedLinear.join([weight])(torch.ones(rows, 64).bfloat16())
    assert found.isfinite().all(0).tolist() == [row != 3 for row in range(70)]


def test_one_token_and_many_agree() -> None:
    weight, x = torch.randn(130, 576).bfloat16(), torch.randn(1, 50, 576).bfloat16()
    linear = PackedLinear.join([weight])
    one_by_one = torch.cat([linear.wide(x[:, [at]]) for at in range(50)], 1)
    torch.testing.assert_close(one_by_one, linear.wide(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.float(),
        lambda weight: weight[:, :40].contiguous(),
        lambda weight: weight.T,
        lambda weight: weight[0],
    ],
    ids=["float32", "40 columns", "transposed", "one row"],
)
def test_what_it_does_not_take_is_refused(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weight = torch.randn(64, 64).bfloat16()
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join([change(weight)])
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join_gated(weight, change(weight))


def test_sizes_that_do_not_match_are_refused() -> None:
    weight = torch.randn(64, 96).bfloat16()
    with pytest.raises(ValueError, match="a bias"):
        PackedLinear.join([weight], torch.randn(63).bfloat16())
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join_gated(weight, torch.randn(32, 96).bfloat16())
    layer, x = PackedLinear.join([weight]), torch.randn(7, 96).bfloat16()
    with pytest.raises(ValueError, match="outputs"):
        layer.add(x, torch.zeros(7, 63).bfloat16())
    with pytest.raises(ValueError, match="outputs"):
        layer.add(x, torch.zeros(64, 7).bfloat16().T)
    for dtype in (torch.int8, torch.float32, torch.float16):
        with pytest.raises(ValueError, match="outputs"):
            layer.add(x, torch.zeros(7, 64, dtype=dtype))
    with pytest.raises(TypeError, match="bfloat16 inputs"):
        layer(x.float())


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("rows", range(2, 17))
def test_each_of_a_few_tokens_gets_what_it_gets_alone(rows: int, bits: int) -> None:
    x = torch.randn(1, rows, 288).bfloat16()
    gate, up, bias = (torch.randn(*shape).bfloat16() for shape in ((96, 288), (96, 288), (96,)))
    plain, gated = PackedLinear.join([gate], bias), PackedLinear.join_gated(gate, up)
    if bits < 16:
        plain, gated = plain.quantized(bits), gated.quantized(bits)
    assert plain.alike_rows == gated.alike_rows
    assert plain.alike_rows == (8 if bits == 16 and library.uses_tiles() else 16)
    rows = min(rows, plain.alike_rows)
    x = x[:, :rows].contiguous()
    gates = [partial(gated.gated, activation=activation) for activation in GATES]
    for compute in (plain, plain.wide, *gates):
        alone = torch.cat([compute(x[:, row : row + 1]).view(1, 96) for row in range(rows)])
        assert torch.equal(compute(x).view(rows, 96), alone)
