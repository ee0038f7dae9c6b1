"""Right answers that an answer contains, as RULER counts them (Hsieh et al. 2024, section 4)."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def cleaned(answer: str) -> str:
    """The answer with line feeds in place of control characters, without white space around it."""
    return _CONTROL.sub("\n", answer.strip()).strip()


def _found(answer: str, right: str) -> bool:
    return right.lower() in cleaned(answer).lower()


def string_match_all(answer: str, right: Sequence[str]) -> float:
    """The share of the right answers that are contained, whatever their case."""
    return sum(_found(answer, each) for each in right) / len(right)


def string_match_part(answer: str, right: Sequence[str]) -> float:
    """Whether one of the right answers is contained, whatever its case."""
    return float(any(_found(answer, each) for each in right))
