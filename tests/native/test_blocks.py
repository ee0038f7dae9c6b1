"""Linear layers of the block formats of GGUF files, against products in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from gguf_blocks import Q4_K, Q5_K, Q6_K, dequantized, kept, raw_blocks
from torch import Tensor

from lmi_cli.native.kinds import GGUF_KINDS
from lmi_cli.native.linear import GgufBlocks, PackedLinear
from lmi_cli.native.variants import Variant

COUNTS = [1, 2, 5, 16, 17, 33, 100]
FEW = 16  # for more tokens, weights are expanded or inputs rounded to fewer bits
Q4_0, Q8_0 = 2, 8

every_kind = pytest.mark.parametrize(
    "kind", sorted(GGUF_KINDS), ids=[GGUF_KINDS[kind].name for kind in sorted(GGUF_KINDS)]
)


def columns_of(kind: int) -> int:
    """More than what is expanded at once, and no multiple of it where the format allows."""
    return 768 if GGUF_KINDS[kind].columns == 256 else 352


def blocks(kind: int, rows: int, columns: int | None = None) -> GgufBlocks:
    return GgufBlocks(kind, raw_blocks(kind, rows, columns or columns_of(kind)))


def activations(tokens: int, columns: int) -> Tensor:
    """Numbers with one far above the others, as real ones are, and with a block of zeros."""
    x = torch.randn(tokens, columns)
    x[:, 5] *= 300
    x[:, 32:64] = 0
    x[1::2, :32] *= 2**-20
    x[-1, -32:] = 0
    return x.bfloat16()


def check(found: Tensor, x: Tensor, weight: GgufBlocks, variant: Variant) -> None:
    """Compare products, not rounded, with those of what is kept of the weight.

    Fewer than six tokens are rounded to whole numbers, of which the largest in each block of 32
    columns is 32,512, and the sums of their products with codes are exact. Dividing by the unit
    adds less than a hundredth of it to the half that rounding may be off. Then there are eight
    roundings to float32 or fewer for each block of columns, each relative to the largest code, and
    one sum.

    More tokens are multiplied by weights in float32, which are rounded to bfloat16 first where that
    is what the processor multiplies. Products are exact, sums are not. Where it is faster, codes of
    up to six bits are multiplied like those of few tokens, but the largest number is 127, except in
    blocks with a number far above the token's others.
    """
    exact = kept(weight.kind, weight.raw)
    wide, count = x.double(), x.shape[-1] // 32
    reach = wide.abs() @ exact.reach.T
    by_bytes = variant.name in ("avx2", "avx512") and GGUF_KINDS[weight.kind].bits <= 6
    if len(x) <= FEW or by_bytes:
        most = wide.view(len(x), count, 32).abs().amax(-1)
        levels = torch.full_like(most, 32512)
        if len(x) > FEW:
            far = most > 8.001 * wide.pow(2).mean(-1, keepdim=True).sqrt()
            levels = torch.where(far, levels, 127)
        unit = most / levels
        inputs = 0.51 * unit @ exact.weight.abs().view(-1, count, 32).sum(-1).T
        expected, limit = wide @ exact.weight.T, inputs + (8 + count) * 2**-24 * reach
    else:
        multiplied = exact.weight.float()
        if variant.name == "avx512-bf16":
            multiplied = multiplied.bfloat16()
        expected, limit = wide @ multiplied.double().T, 2**-18 * reach
    assert found.dtype == torch.float32
    assert ((found.double() - expected).abs() <= limit).all()


@every_kind
def test_what_is_kept_of_a_weight(kind: int, each_library: Variant) -> None:
    weight = blocks(kind, 150)
    linear, exact = PackedLinear.join([weight]), kept(kind, weight.raw)
    expected = exact.weight.float().bfloat16()
    assert torch.equal(linear.weights(0, 150), expected)
    assert torch.equal(linear.weights(63, 66), expected[63:66])
    ids = torch.tensor([[149, 0, 64], [7, 7, 128]])
    assert torch.equal(linear.embed(ids), expected[ids])
    # Half precision has eleven bits, and at the lower end multiples of 2**-24.
    rounded = exact.reach * 2**-11 + 2**-25 * 2 ** GGUF_KINDS[kind].bits
    limit = rounded if kind in (Q4_K, Q5_K, Q6_K) else exact.reach * 2**-24
    assert ((dequantized(kind, weight.raw) - exact.weight).abs() <= limit).all()
    bits = 8 * linear.nbytes / (192 * linear.columns)
    assert bits == GGUF_KINDS[kind].bits_per_weight


@every_kind
@pytest.mark.parametrize("tokens", COUNTS)
def test_every_ending(kind: int, tokens: int, each_unit: Variant) -> None:
    weight, bias = blocks(kind, 70), torch.randn(70).bfloat16()
    x = activations(tokens, columns_of(kind))
    plain, biased = PackedLinear.join([weight]), PackedLinear.join([weight], bias)
    wide = plain.wide(x)
    check(wide, x, weight, each_unit)
    assert torch.equal(biased.wide(x), wide + bias)
    assert torch.equal(plain(x), wide.bfloat16())
    assert torch.equal(biased(x), (wide + bias).bfloat16())
    before = torch.randn(tokens, 70).bfloat16()
    to = before.clone()
    biased.add(x, to)
    assert torch.equal(to, before + biased(x))


@every_kind
@pytest.mark.parametrize("outputs", [1, 64, 129])
@pytest.mark.parametrize("tokens", [3, 250])
def test_other_sizes(kind: int, outputs: int, tokens: int, each_unit: Variant) -> None:
    """One block of columns, and as many tokens as make a thread expand a panel once for several."""
    weight = blocks(kind, outputs, GGUF_KINDS[kind].columns)
    x = torch.randn(1, tokens, GGUF_KINDS[kind].columns).bfloat16()
    found = PackedLinear.join([weight]).wide(x)
    check(found[0], x[0], weight, each_unit)


@every_kind
@pytest.mark.parametrize("tokens", COUNTS)
def test_gated(kind: int, tokens: int, each_unit: Variant) -> None:
    """From the products of gate and up alone, which are the same to the last bit."""
    gate, up = blocks(kind, 40), blocks(kind, 40)
    up.raw[:] = up.raw.roll(1, 0)
    x = activations(tokens, columns_of(kind)) / 64
    left, right = (PackedLinear.join([part])(x).float() for part in (gate, up))
    expected = torch.nn.functional.silu(left).bfloat16() * right
    found = PackedLinear.join_gated(gate, up).gated(x, "silu").float()
    # The gate may have been rounded the other way, and the product is rounded once more.
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=1e-30)
    assert (found == expected.bfloat16()).float().mean() > 0.9


JOINED: list[tuple[int | None, ...]] = [
    (None, Q4_K, Q6_K),
    (Q6_K, None, Q8_0),
    (Q4_0, Q4_0, None),
    (Q5_K, Q5_K, Q5_K),
    (None, Q8_0, None),
]


@pytest.mark.parametrize("kinds", JOINED, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 8, 17, 100])
def test_several_kinds_in_one_layer(
    kinds: tuple[int | None, ...], tokens: int, each_unit: Variant
) -> None:
    """Each part computes what it does alone, to the last bit."""
    rows = (70, 64, 33)
    weights = [
        torch.randn(count, 512).bfloat16() if kind is None else blocks(kind, count, 512)
        for kind, count in zip(kinds, rows, strict=True)
    ]
    bias, x = torch.randn(sum(rows)).bfloat16(), activations(tokens, 512)
    joined = PackedLinear.join(weights, bias)
    alone = [
        PackedLinear.join([weight], part.clone())
        for weight, part in zip(weights, bias.split(rows), strict=True)
    ]
    assert torch.equal(joined(x), torch.cat([linear(x) for linear in alone], -1))
    assert torch.equal(joined.wide(x), torch.cat([linear.wide(x) for linear in alone], -1))
    whole = torch.cat([linear.weights(0, linear.rows) for linear in alone])
    ids = torch.tensor([0, 69, 70, 133, 134, 166])
    assert torch.equal(joined.embed(ids), whole[ids])


@every_kind
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tokens", [2, 7, 40])
def test_nothing_that_is_not_finite_is_hidden(
    kind: int, broken: float, tokens: int, each_unit: Variant
) -> None:
    x = activations(tokens, columns_of(kind))
    x[1, 40] = broken
    found = PackedLinear.join([blocks(kind, 70)])(x)
    assert not found[1].isfinite().any()
    assert found[0].isfinite().all() and found[2:].isfinite().all()


@every_kind
def test_no_token_depends_on_the_others(kind: int, each_unit: Variant) -> None:
    linear, x = PackedLinear.join([blocks(kind, 70)]), activations(40, columns_of(kind))
    other = x.clone()
    other[::2, ::7] *= 300
    assert torch.equal(linear.wide(other)[1::2], linear.wide(x)[1::2])


@every_kind
@pytest.mark.parametrize("size", [2.0**-100, 2.0**-122, 2.0**-133])
def test_inputs_too_small_to_divide_by(kind: int, size: float, each_unit: Variant) -> None:
    """What is below the normal numbers of float32 may become zero, and nothing else."""
    weight = blocks(kind, 70)
    for tokens in (2, 7):
        x = (torch.randn(tokens, columns_of(kind)) * size).bfloat16()
        expected = x.double() @ kept(kind, weight.raw).weight.T
        limit = kept(kind, weight.raw).reach.sum(1) * (size * 2**-8 + 2**-125)
        found = PackedLinear.join([weight]).wide(x).double()
        assert ((found - expected).abs() <= limit).all()


def test_zeros_are_zeros(each_unit: Variant) -> None:
    linear = PackedLinear.join([blocks(Q4_K, 70), blocks(Q8_0, 70, 768)])
    for tokens in (2, 7):
        assert not linear(torch.zeros(tokens, 768).bfloat16()).any()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.char(),
        lambda raw: raw.float(),
        lambda raw: raw[:, :-1].contiguous(),
        lambda raw: raw.T,
        lambda raw: raw.repeat(1, 2)[:, ::2],
        lambda raw: raw[0],
    ],
    ids=["int8", "float32", "a byte less", "transposed", "gaps", "one row"],
)
def test_what_is_no_weight_is_refused(change: Callable[[Tensor], Tensor], c_library: None) -> None:
    sound = blocks(Q8_0, 64)
    weight = GgufBlocks(Q8_0, change(sound.raw))
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join([weight])
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join_gated(sound, weight)


def test_kinds_that_do_not_go_together_are_refused(c_library: None) -> None:
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join([GgufBlocks(10, torch.zeros(64, 84).byte())])
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join([GgufBlocks(Q8_0, torch.zeros(64, 34, device="meta").byte())])
    four = [blocks(kind, 8, 256) for kind in (Q4_0, Q8_0, Q4_0, Q6_K)]
    with pytest.raises(ValueError, match="4 kinds"):
        PackedLinear.join(four)
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join_gated(four[0], four[1])
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join_gated(four[0], torch.randn(8, 256).bfloat16())
    with pytest.raises(ValueError, match="no packed linear layer"):
        PackedLinear.join([four[0], blocks(Q4_0, 8, 288)])
    with pytest.raises(ValueError, match="a bias"):
        PackedLinear.join(four[:1], torch.zeros(9).bfloat16())
