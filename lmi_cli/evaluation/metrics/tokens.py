"""Overlap of words, as SQuAD defines it (Rajpurkar et al., EMNLP 2016, section 6.1)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
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


def contains(answer: str, right: str) -> float:
    """Whether the normalised words of the right answer follow each other in the answer."""
    return float(f" {normalised(right)} " in f" {normalised(answer)} ")
