"""Similarity of a line of code, as LongBench measures it."""

_NOT_CODE = ("`", "#", "//")


def code_sim(answer: str, right: str) -> float:
    """Similarity of the right line and the first line that has no comment and no fence.

    It is the normalised similarity of insertions and deletions, rounded to hundredths.
    """
    from rapidfuzz import fuzz

    lines = answer.lstrip("\n").split("\n")
    code = (line for line in lines if not any(mark in line for mark in _NOT_CODE))
    return round(fuzz.ratio(next(code, ""), right)) / 100
