"""Metrics of Chinese text: by words, which ``jieba`` cuts, or by characters."""

import string
import warnings
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from lmi_cli.evaluation.metrics.rouge import rouge
from lmi_cli.evaluation.metrics.tokens import f1_of

_MARKS = (
    (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003),
    (0x300B, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F),
    (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64),
)  # fmt: skip
"""Ranges of the marks, beside those of ASCII, that the published scripts leave out."""

_LEFT_OUT = str.maketrans(
    dict.fromkeys(string.punctuation)
    | {chr(code): None for first, last in _MARKS for code in range(first, last + 1)}
)


def normalised(text: str) -> str:
    """Lower case, without punctuation and white space."""
    return "".join(text.lower().translate(_LEFT_OUT).split())


def char_f1_zh(answer: str, right: str) -> float:
    """F1 of characters (InfiniteBench)."""
    return f1_of(normalised(answer), normalised(right))


def qa_f1_zh(answer: str, right: str) -> float:
    """F1 of words (LongBench)."""
    cut = ([normalised(word) for word in _words(text)] for text in (answer, right))
    return f1_of(*([word for word in words if word] for words in cut))


def rouge_zh(answer: str, right: str) -> float:
    """F of ROUGE-L over words (LongBench)."""
    return rouge(" ".join(_words(answer)), " ".join(_words(right)))


def _words(text: str) -> list[str]:
    return list(_cutter().cut(text, cut_all=False))


@cache
def _cutter() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how it looks for its own files
        import jieba

    jieba.setLogLevel("WARNING")
    # It would read a cache from a folder that every user can write to, in a form like pickle.
    with TemporaryDirectory() as folder:
        jieba.dt.tmp_dir = folder
        jieba.dt.initialize()
    return jieba
