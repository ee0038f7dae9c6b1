"""Attention with linear biases: a score falls with the distance of query and key.

Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input Length
Extrapolation", ICLR 2022 (arXiv 2108.12409), section 3: ``slope * distance`` is taken off each
score, with a slope for each head. As with rotary embeddings, the distance is that of the positions
which a method assigns (LM-Infinite, arXiv 2308.16137, section 3).
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Alibi(NamedTuple):
    """Slopes, and the assigned positions of queries and keys.

    Positions are whole numbers, relative to any token near the queries, so that float32 holds all
    of them below 2**24 exactly, however far from the beginning of the stream they are.

    Attributes:
        slopes: Of each query head, ``[H]``, float32 or wider, as are the others.
        query_at: ``[Q]``.
        key_at: ``[K]``.
    """

    slopes: Tensor
    query_at: Tensor
    key_at: Tensor

    def of(self, heads: slice | Sequence[int]) -> "Alibi":
        """The same for some of the query heads."""
        return self._replace(slopes=self.slopes[heads])

    def lower(self, scores: Tensor, heads: slice, rows: slice, columns: slice) -> None:
        """Take its bias off scores ``[..., H, Q, K]`` of some heads, queries and keys, in place."""
        distance = self.query_at[rows, None] - self.key_at[columns]
        scores.addcmul_(self.slopes[heads, None, None], distance, value=-1)
