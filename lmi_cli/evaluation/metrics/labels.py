"""One of some names or letters, as LongBench, InfiniteBench and L-Eval look for it."""

import re
from collections.abc import Sequence

_BREAKS = str.maketrans(dict.fromkeys("\n:\"'.,?!{}", " "))
_LETTERS = "ABCD"
_ANNOUNCED = ("answer is:", "answer:", "answer is", "option is")
_ANNOUNCED_CODE = ("answer is:", "is:", "answer:")
_CHOICE_BREAKS = str.maketrans(dict.fromkeys("\n\"'.,?!{}", " "))
_CODE_BREAKS = re.compile(r"[\n`'\"*-]|[Oo]ption")


def classification(answer: str, right: str, classes: Sequence[str]) -> float:
    """One by the number of the classes that the answer names, if the right one is among them.

    Classes whose name is part of the name of the right one do not count.
    """
    named = [name for name in classes if name in answer and (name == right or name not in right)]
    return 1 / len(named) if right in named else 0.0


def word(answer: str, right: str) -> float:
    """Whether the right answer is one of the words."""
    return float(right in answer.translate(_BREAKS).split())


def word_upper(answer: str, right: str) -> float:
    """Whether the right answer, a name in capitals, is one of the words, whatever their case."""
    return float(right in answer.translate(_BREAKS).upper().split())


def choice(answer: str, right: Sequence[str]) -> float:
    """Whether the right option is chosen, of which the text and the letter are given.

    It counts by the first character, else as a whole, else by what follows words such as "answer
    is", else by the first letter that stands alone.
    """
    answer = answer.strip()
    if answer[:1] and answer[0] in _LETTERS:
        return float(answer[0] in right)
    if answer in right:
        return 1.0
    text = answer.translate(_CHOICE_BREAKS)
    if (said := _behind(text, _ANNOUNCED)) is not None:
        return float(said != "" and any(said.startswith(each) for each in right))
    alone = [each for each in text.split() if each in _LETTERS]
    return float(bool(alone) and alone[0] in right)


def choice_or_name(answer: str, right: Sequence[str]) -> float:
    """Whether the right function is chosen, by its letter or its name.

    It counts by a letter with a full stop or a colon in front, else by what follows words such as
    "answer is:".
    """
    name, letter = right
    answer = answer.strip()
    if answer[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    said = _behind(_CODE_BREAKS.sub(" ", answer), _ANNOUNCED_CODE)
    return float(bool(said) and (said or "").startswith((letter, name)))


def letter(answer: str, right: str) -> float:
    """Whether the first of the letters from A to D is the right one, unless it says several."""
    if answer in _LETTERS:
        return float(answer == _expected(right))
    found = re.search("[A-D]", answer)
    return float(found is not None and found[0] == _expected(right))


def letters(answer: str, right: str) -> float:
    """Whether the letters that are chosen are the right ones, in any order and no others.

    They are those that the answer begins with, if several, else all with white space, a full stop
    or a bracket behind them, before another question.
    """
    first = re.match("[A-D]*", answer)
    chosen = first[0] if first else ""
    if len(chosen) < 2:
        rest = answer[len(chosen) :].split("Question")[0]
        chosen += "".join(re.findall(r"[A-D](?=[\s.)])", rest))
    return float("".join(sorted(set(chosen))) == _expected(right))


def _expected(right: str) -> str:
    """The letters in the first word of the right answer."""
    return "".join(sorted(set(re.sub("[^A-D]", "", right.split()[0]))))


def _behind(text: str, announced: Sequence[str]) -> str | None:
    """What follows the first of some announcements that occurs; None if none does."""
    text = re.sub(" +", " ", text)
    for words in announced:
        if (at := text.find(words)) >= 0:
            return text[at + len(words) + 1 :]
    return None
