"""A document cut into passages of about one size, at natural borders. Imports numpy."""

import re

import numpy as np
from numpy.typing import NDArray

_SLACK = 3
"""A border may lie this part (one over it) of a passage away from where an even cut would be."""

# From the best place to end a passage to the worst.
_BORDERS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"(?<=[.!?:;])[\"')\]]*\n\s*"),
    re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=\S)"),
    re.compile(r"\n\s*"),
    re.compile(r"\s+"),
)


def cut(
    text: str, starts: NDArray[np.int64], sections: NDArray[np.int64], tokens: int
) -> NDArray[np.int64]:
    """Token offsets at which passages begin, and the number of tokens at the end.

    Every section is cut evenly into passages of about ``tokens``, each cut moved to the best border
    nearby: the end of a paragraph, a sentence, a line, a word.

    Args:
        text: The whole stream.
        starts: Character offset in ``text`` in which each token begins, ascending.
        sections: Token offsets that no passage crosses, ascending, the first one 0.
        tokens: Target size, in tokens.
    """
    count = len(starts)
    borders: list[int] = []
    ends = [*sections[1:].tolist(), count]
    for first, stop in zip(sections.tolist(), ends, strict=True):
        pieces = max(1, round((stop - first) / tokens))
        borders.append(first)
        step = (stop - first) / pieces
        for piece in range(1, pieces):
            even = first + piece * step
            low = max(borders[-1] + 1, int(even - step / _SLACK))
            high = min(stop - 1, int(even + step / _SLACK))
            if low < high:
                borders.append(_best(text, starts, low, high, round(even)))
    return np.array([*borders, count], dtype=np.int64)


def _best(text: str, starts: NDArray[np.int64], low: int, high: int, even: int) -> int:
    """The token in ``low..high`` at which a passage best begins."""
    begin, end = int(starts[low]), int(starts[high])
    for border in _BORDERS:
        near = []
        for match in border.finditer(text, max(0, begin - 2), end + 2):
            # The token with the first character behind the border; it may begin inside of it.
            token = int(np.searchsorted(starts, match.end(), side="right")) - 1
            token += int(starts[token]) < match.start()
            if low <= token <= high:
                near.append(token)
        if near:
            return min(near, key=lambda token: (abs(token - even), token))
    return even
