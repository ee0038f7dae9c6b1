"""Cut a document into passages of about equal size, at natural borders. Imports numpy."""

import re

import numpy as np
from numpy.typing import NDArray

_SLACK = 3
"""A cut may move from its even position to a border at most ``1 / _SLACK`` of a passage away."""

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
    """Token offsets at which passages begin, followed by the number of tokens.

    Every section is cut evenly into passages of about ``tokens`` tokens, and each cut is moved to
    the best border nearby: the end of a paragraph, a sentence, a line, a word.

    Args:
        text: The whole stream.
        starts: Character offset in ``text`` at which each token begins, ascending.
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
    """The best token in ``low..high`` for a passage to begin with."""
    begin, end = int(starts[low]), int(starts[high])
    for border in _BORDERS:
        near = []
        for match in border.finditer(text, max(0, begin - 2), end + 2):
            # The token with the first character after the border; it may begin within the border.
            token = int(np.searchsorted(starts, match.end(), side="right")) - 1
            token += int(starts[token]) < match.start()
            if low <= token <= high:
                near.append(token)
        if near:
            return min(near, key=lambda token: (abs(token - even), token))
    return even
