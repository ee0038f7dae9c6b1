"""Numbers in an answer: those that LongBench and InfiniteBench look for."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[0-9]+")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+|[0-9]+")
_PARAGRAPH = re.compile(r"Paragraph ([0-9]+)")
_PARAGRAPH_ZH = re.compile(r"段落([0-9]+)")
_BETWEEN = str.maketrans(dict.fromkeys("\n.`'\":", " "))


def _share(answer: str, right: str) -> float:
    """The share of the numbers in an answer that are the right one."""
    numbers = _NUMBER.findall(answer)
    return numbers.count(right) / len(numbers) if numbers else 0.0


def count(answer: str, right: str) -> float:
    """The share of the numbers in the answer that are right."""
    return _share(answer, right)


def retrieval(answer: str, right: str) -> float:
    """The share of the numbers in the answer that name the right paragraph (``Paragraph 7``)."""
    found = _PARAGRAPH.search(right)
    return _share(answer, found[1]) if found else 0.0


def retrieval_zh(answer: str, right: str) -> float:
    """The same in Chinese."""
    found = _PARAGRAPH_ZH.search(right)
    return _share(answer, found[1]) if found else 0.0


def first_integer(answer: str, right: str) -> float:
    """Whether the first run of digits is the right answer."""
    found = _NUMBER.search(answer)
    return float(found is not None and found[0] == right)


def first_number(answer: str, right: str) -> float:
    """Whether the first number, which may have decimals, has the value of the right answer."""
    found = _DECIMAL.search(answer)
    try:
        return float(found is not None and float(found[0]) == float(right))
    except ValueError:
        return 0.0


def last_integer(answer: str, right: str) -> float:
    """Whether the last word is the right whole number."""
    words = answer.translate(_BETWEEN).split()
    try:
        return float(bool(words) and int(words[-1]) == int(right))
    except ValueError:
        return 0.0


def calculation(answer: str, right: Sequence[str]) -> float:
    """The share of a list of whole numbers that the answer gives before one differs."""
    right_so_far = 0
    for said, expected in zip(_NUMBER.findall(answer), right, strict=False):
        if said.lstrip("0") != expected.lstrip("0"):
            break
        right_so_far += 1
    return right_so_far / len(right)
