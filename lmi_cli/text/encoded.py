"""Tokens of a text, and where in the text they begin. Imports numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a text.

    Attributes:
        ids: int32, ``[tokens]``.
        starts: Offset in the text of the character in which each token begins, int64, ``[tokens]``.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def same_as(self, other: "Encoded") -> bool:
        """Whether ids and offsets are equal."""
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.starts, other.starts)

    def first(self, count: int) -> "Encoded":
        """The first ``count`` tokens."""
        return Encoded(self.ids[:count], self.starts[:count])

    def after(self, count: int, chars: int) -> "Encoded":
        """All tokens but the first ``count``, for the text from its character ``chars`` on."""
        return Encoded(self.ids[count:], self.starts[count:] - chars)
