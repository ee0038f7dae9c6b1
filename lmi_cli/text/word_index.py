"""Texts ranked by the words that they share with a question (BM25)."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lmi_cli.text.sentences import words


class WordIndex:
    """The words of some texts; see :func:`lmi_cli.text.sentences.words`.

    Args:
        texts: At least one.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import bm25s

        split = [words(text) or [""] for text in texts]
        self._number = len(split)
        self._index = bm25s.BM25()
        self._index.index(split, show_progress=False)

    def scores(self, question: str) -> NDArray[np.float32]:
        """The BM25 score of each text, float32 ``[texts]``; 0 where no word is shared."""
        asked = [word for word in words(question) if word in self._index.vocab_dict]
        if not asked:
            return np.zeros(self._number, dtype=np.float32)
        found: NDArray[np.float32] = self._index.get_scores(asked)
        return found
