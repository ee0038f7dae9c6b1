"""Losses and entropies in C, against those of products in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.native import library
from lmi_cli.native.likelihood import losses
from lmi_cli.native.linear import PackedLinear

pytestmark = pytest.mark.usefixtures("each_unit")


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def exact(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    return exact_of(x.double() @ weight.double().T + bias, targets)


def exact_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log = logits.log_softmax(-1)
    entropy = -(log.exp() * log.clamp(min=torch.finfo(log.dtype).min)).sum(-1)
    return functional.nll_loss(log, targets, reduction="none"), entropy


def close(found: Tensor | None, expected: Tensor, limit: float = 1e-5) -> None:
    """Within the error of sums in float32, relative to logits of up to 40."""
    assert found is not None
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("count", [1, 2, 7, 17, 33, 100])
@pytest.mark.parametrize("outputs", [1, 63, 64, 100, 1024, 1100, 2200])
def test_any_number_of_tokens_and_outputs(count: int, outputs: int) -> None:
    """Including the first and the last, and those at both sides of a boundary."""
    x, weight, bias = numbers(count, 96), numbers(outputs, 96) / 2, numbers(outputs)
    edges = torch.tensor([0, outputs - 1, 63, 64, 1023, 1024]).clamp(max=outputs - 1)
    targets = torch.cat((edges, torch.randint(0, outputs, (count,))))[:count].contiguous()
    loss, entropy = losses(PackedLinear.join([weight], bias), x, targets, with_entropy=True)
    for found, expected in zip(
        (loss, entropy), exact(x, weight, targets, bias.double()), strict=True
    ):
        close(found, expected)
    alone, none = losses(PackedLinear.join([weight], bias), x, targets)
    assert torch.equal(alone, loss) and none is None


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(("factor", "softcap"), [(0.125, 0.0), (3.0, 0.0), (1.0, 30.0), (2.0, 5.0)])
def test_scale_and_softcap(count: int, factor: float, softcap: float) -> None:
    x, weight = numbers(count, 64), numbers(300, 64)
    targets = torch.randint(0, 300, (count,))
    logits = x.double() @ weight.double().T * factor
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    found = losses(
        PackedLinear.join([weight]), x, targets, factor=factor, softcap=softcap, with_entropy=True
    )
    for each, expected in zip(found, exact_of(logits, targets), strict=True):
        close(each, expected, 3e-5)


@pytest.mark.parametrize("count", [3, 40])
def test_blocks_of_few_bits_and_several_parts(count: int) -> None:
    weights = numbers(96, 64), numbers(70, 64), numbers(1100, 64)
    x, targets = numbers(count, 64), torch.randint(0, 1266, (count,))
    for packed in (PackedLinear.join(weights), PackedLinear.join(weights).quantized(8)):
        expected = exact_of(packed.wide(x).double(), targets)
        for each, wanted in zip(
            losses(packed, x, targets, with_entropy=True), expected, strict=True
        ):
            close(each, wanted)


@pytest.mark.parametrize("count", [2, 40])
def test_logits_far_apart(count: int) -> None:
    """The largest comes first, last or in the middle; what is far below it has no share."""
    x = torch.zeros(count, 32).bfloat16()
    x[:, 0] = 1
    for place in (0, 700, 1199):
        weight = torch.zeros(1200, 32).bfloat16()
        weight[:, 0] = torch.linspace(-1e4, 3e4, 1200)
        weight[place, 0] = 1e5
        targets = torch.full((count,), 1100)
        targets[0] = place
        loss, entropy = losses(PackedLinear.join([weight]), x, targets, with_entropy=True)
        expected, _ = exact(x, weight, targets)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-30)
        assert loss[0] == 0 and entropy is not None and not entropy.any()


@pytest.mark.parametrize("count", [2, 40])
def test_what_is_not_finite(count: int) -> None:
    x, weight = torch.ones(count, 32).bfloat16(), numbers(1100, 32)
    targets = torch.full((count,), 5)
    for value, place in ((math.nan, 1050), (math.inf, 0), (math.inf, 1099), (math.nan, 5)):
        broken = weight.clone()
        broken[place, 3] = value
        loss, entropy = losses(PackedLinear.join([broken]), x, targets, with_entropy=True)
        assert loss.isnan().all() and entropy is not None and entropy.isnan().all()
    weight[64:128, 3] = -math.inf
    targets[0] = 70
    loss, entropy = losses(PackedLinear.join([weight]), x, targets, with_entropy=True)
    left = torch.cat((weight[:64], weight[128:]))
    expected, spread = exact(x, left, torch.full((count,), 5))
    assert loss[0] == math.inf
    close(loss[1:], expected[1:])
    close(entropy, spread)


@pytest.mark.parametrize("count", [5, 50])
def test_threads_give_the_same_bits(count: int) -> None:
    packed = PackedLinear.join([numbers(5000, 64)])
    x, targets = numbers(count, 64), torch.randint(0, 5000, (count,))
    found = []
    for threads in (1, 2, 3):
        library.opened().lmi_threads(threads)
        found.append(losses(packed, x, targets, with_entropy=True))
    library.opened().lmi_threads(torch.get_num_threads())
    for loss, entropy in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert entropy is not None and found[0][1] is not None
        assert torch.equal(entropy, found[0][1])


def test_each_of_a_few_tokens_gets_what_it_gets_alone() -> None:
    packed = PackedLinear.join([numbers(300, 64)])
    x, targets = numbers(packed.alike_rows, 64), torch.randint(0, 300, (packed.alike_rows,))
    together, _ = losses(packed, x, targets)
    alone = [losses(packed, x[at : at + 1], targets[at : at + 1])[0] for at in range(len(x))]
    assert torch.equal(together, torch.cat(alone))


def test_no_tokens_at_all() -> None:
    loss, entropy = losses(
        PackedLinear.join([numbers(70, 64)]),
        numbers(0, 64),
        torch.empty(0, dtype=torch.int64),
        with_entropy=True,
    )
    assert entropy is not None and len(loss) == len(entropy) == 0


def test_inputs_that_are_refused() -> None:
    packed, x, targets = PackedLinear.join([numbers(70, 64)]), numbers(3, 64), torch.arange(3)
    spaced = torch.stack((x, x), 1)[:, 0]
    assert torch.equal(losses(packed, spaced, targets)[0], losses(packed, x, targets)[0])
    for wrong in (x.float(), numbers(3, 96), numbers(1, 3, 64), numbers(2, 64)):
        with pytest.raises(TypeError, match="64 bfloat16 inputs"):
            losses(packed, wrong, targets)
    for other in (targets.int(), targets[:2], targets[None]):
        with pytest.raises(TypeError, match="64 bfloat16 inputs"):
            losses(packed, x, other)
    for beyond in (-1, 70):
        with pytest.raises(IndexError, match="70"):
            losses(packed, x, torch.tensor([0, beyond, 2]))
