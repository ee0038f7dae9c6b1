"""A short comparison of every kernel with torch, on random numbers of odd sizes.

It takes about fourteen milliseconds, and runs each time the library is opened: what was compiled on
this machine has never been tested anywhere else. Imports torch and the rest of this package.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.ranges import KeyRange, TokenRange, TokenView
from lmi_cli.native import attention, likelihood, pointwise
from lmi_cli.native.linear import GgufBlocks, PackedLinear
from lmi_cli.native.step import LayerNorms, StepLayer, Stepper

_EPSILON = 1e-5
# bfloat16 keeps eight bits, and some results are rounded several times on their way.
_TOLERANCE = 2**-5

Random = Callable[..., Tensor]


def wrong_kernels() -> list[str]:
    """Names of the kernels of the open library whose results differ from those of torch."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    wrong = []
    for check in (_linear, _blocks, _likelihood, _pointwise, _attention, _step):
        for name, found, expected in check(random):
            error = (found.float() - expected.float()).abs().max()
            # Written so that nan, which compares as false, does not pass.
            if not error <= _TOLERANCE * expected.float().abs().max() and name not in wrong:
                wrong.append(name)
    return wrong


def _linear(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    gate, up, bias = random(70, 288), random(70, 288), random(70)
    layer, joined = PackedLinear.join([gate], bias), PackedLinear.join_gated(gate, up)
    ids = torch.tensor([[0, 69, 33]])
    yield "embed", layer.embed(ids), gate[ids]
    eight, joined_eight, four = layer.quantized(8), joined.quantized(8), layer.quantized(4)
    kept = four.weights(0, 70)
    # Sixteen levels between the ends of a block cost less than a hundredth of the variance.
    yield "quantized linear", 1 + (kept - gate).float().pow(2).mean(), torch.ones(())
    for tokens in (1, 13, 45):
        x, to = random(tokens, 288), random(tokens, 70)
        plain = functional.linear(x.float(), gate.float(), bias.float())
        added = to + plain
        layer.add(x, to)
        small = x / 16  # so that the gates are neither open nor closed
        product, gated = (small.float() @ weight.float().T for weight in (gate, up))
        active = functional.silu(product) * gated
        gelu = functional.gelu(product, approximate="tanh") * gated
        yield "linear", layer(x), plain
        yield "linear", layer.wide(x), plain
        yield "linear", to, added
        yield "linear", joined.gated(small, "silu"), active
        yield "linear", joined.gated(small, "gelu_pytorch_tanh"), gelu
        yield "quantized linear", eight(x), plain
        yield "quantized linear", joined_eight.gated(small, "silu"), active
        yield "quantized linear", four(x), functional.linear(x.float(), kept.float(), bias.float())


def _blocks(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    scales = torch.tensor([0.01, -0.03]).half().view(torch.uint8)
    for kind, (count, nbytes, dequantize) in _FORMATS.items():
        raw = (random(70 * count, nbytes) * 97).to(torch.int32).to(torch.uint8)
        # A scale, or two of them, of which some formats have one last; elsewhere these are codes.
        raw[:, :4], raw[:, -2:] = scales, scales[:2]
        weight = dequantize(raw).view(70, 256)
        layer = PackedLinear.join([GgufBlocks(kind, raw.view(70, -1))])
        yield "blocks", layer.weights(0, 70), weight
        for tokens in (7, 21):
            x = random(tokens, 256)
            others = x.float()
            # Next to what is far above them, small inputs have few bits; none of those is missing.
            x[:, 9], others[:, 9] = 64, 0
            found = layer.wide(x) - 64 * weight[:, 9]
            yield "blocks", found, others @ weight.T


def _q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float() * raw[:, :2].view(torch.float16)


def _q5_1(raw: Tensor) -> Tensor:
    scale, minimum = raw[:, :4].view(torch.float16).float().unsqueeze(-1).unbind(1)
    upper = (raw[:, 4:8, None] >> torch.arange(8) & 1).flatten(1) << 4
    return (torch.cat((raw[:, 8:] & 15, raw[:, 8:] >> 4), -1) | upper) * scale + minimum


def _q4_k(raw: Tensor) -> Tensor:
    six = raw[:, 4:16].view(-1, 3, 4)
    upper = torch.stack((six[:, 2] & 15, six[:, 2] >> 4), 1) | six[:, :2] >> 6 << 4
    units = raw[:, :4].view(torch.float16).float()
    scale, minimum = (torch.cat((six[:, :2] & 63, upper), -1) * units[..., None]).unbind(1)
    low = raw[:, 16:].view(-1, 4, 1, 32)
    codes = torch.cat((low & 15, low >> 4), 2).view(-1, 8, 32)
    return codes * scale[..., None] - minimum[..., None]


def _q6_k(raw: Tensor) -> Tensor:
    low = (raw[:, :128].view(-1, 2, 1, 64) >> torch.tensor([[0], [4]]) & 15).view(-1, 2, 4, 32)
    upper = raw[:, 128:192].view(-1, 2, 1, 32) >> torch.tensor([[0], [2], [4], [6]]) & 3
    scale = raw[:, 192:208].view(torch.int8) * raw[:, 208:].view(torch.float16).float()
    return ((low | upper << 4).view(-1, 16, 16).float() - 32) * scale[..., None]


_FORMATS: dict[int, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    7: (8, 24, _q5_1),
    8: (8, 34, _q8_0),
    12: (1, 144, _q4_k),
    14: (1, 210, _q6_k),
}
"""Block formats: how many there are in 256 columns, their bytes, and what they mean."""


def _likelihood(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    weight, bias, targets = random(1100, 64), random(1100), torch.arange(45) * 24
    layer = PackedLinear.join([weight], bias)
    for tokens in (3, 45):
        x, asked = random(tokens, 64), targets[:tokens] + 40
        for factor, softcap in ((0.5, 0.0), (1.0, 9.0)):
            logits = functional.linear(x.float(), weight.float(), bias.float()) * factor
            logits = softcap * torch.tanh(logits / softcap) if softcap else logits
            log = logits.log_softmax(-1)
            loss, entropy = likelihood.losses(
                layer, x, asked, factor=factor, softcap=softcap, with_entropy=True
            )
            yield "likelihood", loss, -log.gather(1, asked[:, None])[:, 0]
            if entropy is not None:
                yield "likelihood", entropy, -(log.exp() * log).sum(-1)


def _pointwise(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    x, weight = random(1, 3, 17, 64), random(64).float()
    for twice in (True, False):
        yield "norm", pointwise.norm(x, weight, _EPSILON, twice), _normed(x, weight)
    angle = random(17, 32).float()
    cos, sin = (torch.cat(parts, -1) for parts in ((angle.cos(),) * 2, (-angle.sin(), angle.sin())))
    partner = x.float().roll(32, -1)
    yield "rotate", pointwise.rotate(x, cos, sin), x.float() * cos + partner * sin


def _attention(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    keys = [random(1, 2, count, 64) for count in (7, 7, 93, 93)]
    for rows in (1, 8, 29):
        query = random(1, 6, rows, 64) / 8
        near = KeyRange(query, keys[2], keys[3], key_start=7, nearest=0, farthest=23)
        far = KeyRange(query, keys[0], keys[1], key_start=0, nearest=23)
        distance = torch.arange(100 - rows, 100)[:, None] - torch.arange(100)
        hidden = (distance < 0) | ((distance >= 23) & (torch.arange(100) >= 7))
        key, value = (
            torch.cat(parts, 2).repeat_interleave(3, 1).float() for parts in (keys[::2], keys[1::2])
        )
        slopes, query_at = torch.arange(1, 7) / 30, torch.arange(100 - rows, 100).float()
        far_at, near_at = torch.arange(100).float().split((7, 93))
        falling = [
            replace(keys, alibi=Alibi(slopes, query_at, key_at))
            for keys, key_at in ((far, far_at), (near, near_at))
        ]
        for ranges, softcap in (([far, near], None), ([far, near], 2.0), (falling, None)):
            found, lse = attention.attend(
                ranges, query_start=99 - rows + 1, with_lse=True, softcap=softcap
            )
            scores = query.float() @ key.mT
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            scores = scores - slopes[:, None, None] * distance if ranges is falling else scores
            scores = scores.masked_fill(hidden, -math.inf)
            yield "attention", found, scores.softmax(-1) @ value
            if lse is not None:
                yield "attention", lse, scores.logsumexp(-1)


def _step(random: Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Layers of the Llama kind, and those that normalise outputs too and round less often."""
    heads, size, hidden, inner = (4, 2), 64, 160, 96
    shapes = ((512, hidden), (hidden, 256), (inner, hidden), (inner, hidden), (hidden, inner))
    qkv, output, gate, up, down = (random(*shape) / math.sqrt(shape[1]) for shape in shapes)
    linears = [
        PackedLinear.join([qkv]),
        PackedLinear.join([output]),
        PackedLinear.join_gated(gate, up),
        PackedLinear.join([down]),
    ]
    before, after = [random(hidden).float() for _ in range(2)], [random(hidden).float(), None]
    per_head = [random(size).float() for _ in range(2)]
    for changed in (False, True):
        after_attention, after_mlp = after if changed else (None, None)
        norms = LayerNorms(before[0], after_attention, before[1], after_mlp, *per_head)
        activation = "gelu_pytorch_tanh" if changed else "silu"
        residual_scale = 0.5 if changed else 1.0
        stepper = Stepper(
            [StepLayer(linears, norms)],
            heads,
            activation=activation,
            epsilon=_EPSILON,
            twice=not changed,
            scale=size**-0.5,
            residual_scale=residual_scale,
        )
        x, key, value = random(1, 1, hidden), random(1, 2, 12, size), random(1, 2, 12, size)
        residual = x.float()
        query, new_key, new_value = (
            (_normed(residual, before[0]) @ qkv.float().T).view(8, size).split((4, 2, 2))
        )
        all_keys, all_values = key.clone().float(), value.clone().float()
        all_keys[0, :, 11], all_values[0, :, 11] = _normed(new_key, per_head[1]), new_value
        scores = _normed(query, per_head[0])[:, None] @ all_keys[0].repeat_interleave(2, 0).mT / 8
        attended = scores.softmax(-1) @ all_values[0].repeat_interleave(2, 0)
        outputs = attended.view(1, 1, 256) @ output.float().T
        outputs = outputs if after_attention is None else _normed(outputs, after_attention)
        residual = residual + residual_scale * outputs
        normed = _normed(residual, before[1])
        gated = normed @ gate.float().T
        gated = functional.gelu(gated, approximate="tanh") if changed else functional.silu(gated)
        residual = residual + residual_scale * (gated * (normed @ up.float().T)) @ down.float().T

        seen = TokenRange(None, key, value, begin=0, keys=12, key_start=0)
        stepper.step(x, [TokenView((seen,), key, value, 11, None)], position=11)
        yield "step", x, residual
        yield "step", key, all_keys
        yield "step", value, all_values


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), _EPSILON)
