"""Similarity of a line of code, as LongBench measures it."""

from difflib import SequenceMatcher

_NOT_CODE = ("`", "#", "//")


def code_sim(answer: str, right: str) -> float:
    """Similarity of the right line and the first line that has no comment and no fence.

    It is the ratio of ``difflib``, rounded to hundredths: that of ``fuzzywuzzy`` without
    ``python-Levenshtein``, which the published requirements leave out.
    """
    lines = answer.lstrip("\n").split("\n")
    code = (line for line in lines if not any(mark in line for mark in _NOT_CODE))
    line = next(code, "")
    if not line or not right:
        return 0.0
    return round(100 * SequenceMatcher(None, line, right).ratio()) / 100
