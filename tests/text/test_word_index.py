"""Passages by shared words."""

import numpy as np

from lmi_cli.text.word_index import WordIndex


def test_rare_shared_words_count_most() -> None:
    index = WordIndex(
        ["the cat sat on the mat", "the dog and the cat ran", "a walrus, the end", ""]
    )
    assert index.scores("Where is the Walrus?").argmax() == 2
    assert index.scores("the cat on a mat").argmax() == 0
    assert (index.scores("Qwxyz?") == 0).all() and len(index.scores("?!")) == 4


def test_texts_without_words_have_no_score() -> None:
    assert np.array_equal(WordIndex(["...", ""]).scores("what"), np.zeros(2, dtype=np.float32))
