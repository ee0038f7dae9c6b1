"""How likely tokens are, by logits that are never all in memory. Imports torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.engine.language_model import Losses
from lmi_cli.native import onednn

# Those of 1,024 tokens fit the caches of a CPU; elsewhere, few calls count.
_WIDTH, _WIDTH_ELSEWHERE = 2048, 16384


def by_vocabulary(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Tensor]:
    """Products of hidden states and an output projection, some tokens of the vocabulary at a time.

    Args:
        hidden: ``[n, hidden]``.
        weight: ``[vocab, hidden]``.
        bias: ``[vocab]``.

    Yields:
        ``[n, <= vocab]`` in float32 or wider.
    """
    width = _WIDTH if hidden.device.type == "cpu" else _WIDTH_ELSEWHERE
    for first in range(0, len(weight), width):
        rows = slice(first, first + width)
        with onednn.linear_layers(len(hidden), hidden.device):
            out = functional.linear(hidden, weight[rows], None if bias is None else bias[rows])
        yield out.to(torch.promote_types(out.dtype, torch.float32))


def losses_of(logits: Iterable[Tensor], targets: Tensor, *, with_entropy: bool) -> Losses:
    """Losses of tokens by the logits of one part of the vocabulary after the other.

    Each part has a sum of exponentials relative to its own largest logit; sums are then put on one
    scale (Milakov and Gimelshein 2018, arXiv 1805.02867).

    Args:
        logits: ``[n, .]``, in float32 or wider; the parts together are the vocabulary. They are
            overwritten.
        targets: Ids of the tokens, int64 ``[n]``.
        with_entropy: See :meth:`~lmi_cli.engine.language_model.LanguageModel.losses`.
    """
    first, parts = 0, list[_Part]()
    for part in logits:
        parts.append(_Part.of(part, targets.to(part.device) - first, with_entropy))
        first += part.shape[1]
    peaks = torch.stack([part.peak for part in parts])
    peak = peaks.amax(0)
    below = peaks - peak
    shrink = below.exp()
    sums = torch.stack([part.sum for part in parts])
    total = (sums * shrink).sum(0)
    logit = torch.stack([part.logit for part in parts]).sum(0)
    entropy = None
    if with_entropy:
        spreads = torch.stack([part.spread for part in parts])
        entropy = total.log() - ((spreads + below * sums) * shrink).sum(0) / total
    return Losses(peak - logit + total.log(), entropy)


@dataclass(frozen=True, slots=True)
class _Part:
    """What is kept of some logits of each token, ``[n]``.

    Attributes:
        peak: The largest.
        sum: Of ``exp(logit - peak)``.
        spread: Of ``exp(logit - peak) * (logit - peak)``, if it is wanted.
        logit: That of the target, or 0 where it is in another part.
    """

    peak: Tensor
    sum: Tensor
    spread: Tensor
    logit: Tensor

    @classmethod
    def of(cls, logits: Tensor, place: Tensor, with_spread: bool) -> Self:
        """Reduce logits ``[n, .]``, among which the target is at ``place`` if that exists."""
        width, lowest = logits.shape[1], torch.finfo(logits.dtype).min
        found = logits.gather(1, place.clamp(0, width - 1)[:, None])[:, 0]
        logit = torch.where((place >= 0) & (place < width), found, 0)
        peak = logits.amax(1).clamp(min=lowest)
        over = logits.sub_(peak[:, None])
        if not with_spread:
            return cls(peak, over.exp_().sum(1), peak, logit)
        weights = over.exp()
        # Where a probability is zero, its logarithm may be minus infinity.
        spread = weights.mul(over.clamp_(min=lowest)).sum(1)
        return cls(peak, weights.sum(1), spread, logit)
