"""Overlap of words, as SQuAD defines it (Rajpurkar et al., EMNLP 2016, section 6.1)."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of scripts that leave no space between words."""
_LAST_ASCII = 0x7F
_INSTEAD = {"Pi": "", "Pf": "", "Pd": " ", "Ps": " ", "Pe": " ", "Po": " ", "Pc": " "}
"""What takes the place of punctuation that is not of ASCII, by its category."""
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces between words."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1_of(answer: Sequence[str], right: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of tokens, each counted as often as it occurs."""
    same = sum((Counter(answer) & Counter(right)).values())
    return 2 * same / (len(answer) + len(right)) if same else 0.0


def qa_f1(answer: str, right: str) -> float:
    """F1 of normalised words."""
    return f1_of(normalised(answer).split(), normalised(right).split())


def exact_match(answer: str, right: str) -> float:
    """Whether both are the same once normalised."""
    return float(normalised(answer) == normalised(right))


def words_of(text: str) -> str:
    """Normalised for every script: no punctuation at all; ideographs and kana are words of one."""
    marks = {ord(mark): _INSTEAD.get(unicodedata.category(mark)) for mark in set(text)}
    marks = {mark: to for mark, to in marks.items() if to is not None and mark > _LAST_ASCII}
    return normalised(_UNSPACED.sub(r" \g<0> ", text).translate(marks))


def contains(answer: str, right: str) -> float:
    """Whether the words of the right answer follow each other in the answer."""
    return float(f" {words_of(right)} " in f" {words_of(answer)} ")
