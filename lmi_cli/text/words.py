"""Passages ranked by the words that they share with a question (BM25)."""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


class WordIndex:
    """The words of some texts.

    Args:
        texts: At least one.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import bm25s

        self._index = bm25s.BM25()
        self._number = 0
        split = [_words(text) or [""] for text in texts]
        self._number = len(split)
        self._index.index(split, show_progress=False)

    def scores(self, question: str) -> NDArray[np.float32]:
        """The score of each text, float32 ``[texts]``; 0 where no word is shared."""
        asked = [word for word in _words(question) if word in self._index.vocab_dict]
        if not asked:
            return np.zeros(self._number, dtype=np.float32)
        found: NDArray[np.float32] = self._index.get_scores(asked)
        return found


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
