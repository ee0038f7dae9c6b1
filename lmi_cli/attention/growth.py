"""Queries that grow with their position, so that attention stays sharp over many keys.

Scores are multiplied by a logarithm of the position of their query, as Nakanishi 2025
(arXiv 2501.19399) proposes; Llama 4 and Ministral 3 do so in steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class QueryGrowth:
    """The factor ``1 + rate * log(1 + (position + ahead) // every)`` on queries.

    Attributes:
        rate: How much it grows.
        every: Tokens after which it grows.
        most: The largest position that counts: that of the last token of a trained text. A model
            has not been trained with larger factors, which a longer text would bring.
        ahead: Tokens by which it is ahead of the position.
    """

    rate: float
    every: int
    most: int
    ahead: int = 0

    def factors(self, positions: Tensor) -> Tensor:
        """Factors ``[n]``, float64, for queries at ``positions`` (int64, ``[n]``)."""
        steps = (positions.clamp(max=self.most) + self.ahead) // self.every
        return 1 + self.rate * torch.log1p(steps.double())
