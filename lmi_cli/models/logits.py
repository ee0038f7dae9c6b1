"""What some families do to the products of the output projection. Imports torch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitsScale:
    """Scaling and softcap of logits.

    Attributes:
        factor: What they are multiplied by.
        divisor: What they are divided by.
        softcap: If given, they then pass through ``softcap * tanh(logit / softcap)``.
    """

    factor: float = 1.0
    divisor: float = 1.0
    softcap: float | None = None

    @property
    def whole_factor(self) -> float:
        """Factor and divisor in one."""
        return self.factor / self.divisor

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits of products ``[..., vocab]``, in their dtype."""
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.divisor != 1.0:
            logits = logits / self.divisor
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits
