"""Choosing the next token from logits.

Imports torch only when a token is chosen, so that options are checked, and models refused, at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Keep the smallest set of tokens whose probability reaches this.
        top_k: Keep this many tokens; 0 keeps all.
        seed: With the index of the question it seeds a generator of its own.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature}: a number from 0 up")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top-p {self.top_p}: a number above 0 and at most 1")
        if self.top_k < 0:
            raise UsageError(f"top-k {self.top_k}: 0 (all tokens) or more")

    def generator(self, index: int) -> "torch.Generator":
        """The random generator of question number ``index``."""
        import torch

        return torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)

    def choose(self, logits: "Tensor", generator: "torch.Generator") -> int:
        """Draw a token from ``logits`` (float32, ``[vocab]``, any device)."""
        import torch

        if self.temperature == 0.0:
            return int(logits.argmax())
        # In float64 and from the largest down, so that no temperature is too small to divide by.
        scores = (logits - logits.max()).double().cpu() / self.temperature
        if self.top_k:
            floor = scores.topk(min(self.top_k, len(scores))).values[-1]
            scores = scores.masked_fill(scores < floor, float("-inf"))
        probabilities = scores.softmax(-1)
        if self.top_p < 1.0:
            ordered, index = probabilities.sort(descending=True)
            # A token stays if those before it have not yet reached top_p.
            ordered[(ordered.cumsum(0) - ordered) >= self.top_p] = 0.0
            probabilities = torch.zeros_like(probabilities).scatter_(0, index, ordered)
        return int(torch.multinomial(probabilities, 1, generator=generator))
