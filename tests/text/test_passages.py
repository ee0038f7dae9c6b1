"""Passages end where a reader would end them."""

from itertools import pairwise

import numpy as np

from lmi_cli.text.passages import cut


def words(text: str) -> np.ndarray:
    """A token for each word, with the space before it."""
    starts = [0] + [i for i in range(1, len(text)) if text[i] == " "]
    return np.array(starts, dtype=np.int64)


def texts(text: str, starts: np.ndarray, borders: np.ndarray) -> list[str]:
    places = [*starts.tolist(), len(text)]
    return [text[places[a] : places[b]] for a, b in pairwise(borders)]


def test_sentences_stay_whole_and_nothing_is_lost() -> None:
    text = " ".join(f"Sentence number {n} has seven words." for n in range(30))
    starts = words(text)
    borders = cut(text, starts, np.array([0]), 20)
    parts = texts(text, starts, borders)
    assert "".join(parts) == text
    assert all(part.rstrip().endswith(".") for part in parts)
    assert 8 <= len(parts) <= 11


def test_paragraphs_come_before_sentences() -> None:
    paragraph = "One two three. Four five six.\n\n"
    text = paragraph * 6
    starts = np.array([i for i in range(len(text)) if i == 0 or text[i - 1] in " \n"])
    starts = np.array([s for s in starts if text[s] != "\n"])
    borders = cut(text, starts, np.array([0]), 9)
    assert all(part.endswith(".\n\n") for part in texts(text, starts, borders))


def test_sections_are_never_spanned() -> None:
    text = "word " * 100
    starts = np.arange(0, 500, 5)
    borders = cut(text, starts, np.array([0, 37, 38, 90]), 16)
    assert {0, 37, 38, 90, 100} <= set(borders.tolist())
    sizes = np.diff(borders)
    assert (sizes > 0).all()
    assert sizes.max() <= 16 * 1.7


def test_without_any_border() -> None:
    text = "x" * 1000
    borders = cut(text, np.arange(1000), np.array([0]), 100)
    assert np.diff(borders).tolist() == [100] * 10


def test_one_token() -> None:
    assert cut("x", np.array([0]), np.array([0]), 10).tolist() == [0, 1]
