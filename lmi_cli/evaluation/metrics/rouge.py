"""ROUGE (Lin 2004), by the library that each published script uses, as the two differ.

LongBench uses ``rouge``: words are what stands between white space, and the union of the longest
common subsequences of sentences counts each word once. L-Eval and InfiniteBench use
``rouge-score``.
"""

from functools import cache
from typing import Any


def rouge(answer: str, right: str) -> float:
    """F of ROUGE-L, by ``rouge``; 0 where it fails, as in LongBench's script."""
    from rouge import Rouge

    try:
        scores = Rouge(metrics=["rouge-l"]).get_scores([answer], [right], avg=True)
    except (ValueError, RecursionError):  # a text without words, or one that is too long for it
        return 0.0
    return float(scores["rouge-l"]["f"])


def rouge_1(answer: str, right: str) -> float:
    """F of ROUGE-1, by ``rouge-score`` without stemming."""
    return _scored("rouge1", answer, right)


def rouge_2(answer: str, right: str) -> float:
    """F of ROUGE-2, by ``rouge-score`` without stemming."""
    return _scored("rouge2", answer, right)


def rouge_l(answer: str, right: str) -> float:
    """F of ROUGE-L, by ``rouge-score`` without stemming."""
    return _scored("rougeL", answer, right)


def rouge_l_sum(answer: str, right: str) -> float:
    """F of ROUGE-L over lines as sentences, by ``rouge-score`` without stemming."""
    return _scored("rougeLsum", answer, right)


def _scored(name: str, answer: str, right: str) -> float:
    return float(_scorer(name).score(right, answer)[name].fmeasure)


@cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=False)
