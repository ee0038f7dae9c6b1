"""What is hidden in a text, how it is asked for, and how answers are scored.

The pass key is that of LM-Infinite, appendix, after Mohtashami and Jaggi (arXiv 2305.16300); pairs
are those of Liu et al. 2023 (arXiv 2307.03172, section 3); the others have the words of RULER
(Hsieh et al. 2024, arXiv 2404.06654, section 3.1 and its templates). Imports the standard library
and ``evaluation``.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lmi_cli.errors import UsageError
from lmi_cli.evaluation.metrics.numbers import first_integer
from lmi_cli.evaluation.metrics.strings import string_match_all

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""The sentences that are repeated around what is hidden; RULER calls them noise."""

PREFIX = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
KEY = " The pass key is {value}. Remember it. {value} is the pass key."
QUESTION = " What is the pass key? The pass key is"

VALUES = NUMBERS, WORDS, UUIDS = ("numbers", "words", "uuids")
"""Kinds of keys and values, by RULER's names."""

_SEVERAL = 4
"""Keys, or values of one key, where there are several, as in RULER's configuration."""

_ADJECTIVES = (
    "amber brisk calm dapper eager faint gentle hollow icy jolly keen lively mellow narrow odd "
    "pale quiet rapid silent tidy upper vivid warm young ancient bitter clever distant early "
    "fragile golden humble"
)
_NOUNS = (
    "anchor basket candle dolphin engine feather garden harbour island jacket kettle lantern "
    "meadow needle orchard pepper quarry ribbon saddle teapot umbrella violin window yard badge "
    "canyon desert fountain glacier hammer ladder mirror"
)


@dataclass(frozen=True, slots=True)
class Quiz:
    """What one trial hides and asks.

    Attributes:
        introduction: Text in front of the haystack.
        needles: Sentences to hide, each with the gap in front of it; the first is asked for.
        question: Text behind the haystack, which the answer continues.
        expected: The values that are asked for.
    """

    introduction: str
    needles: tuple[str, ...]
    question: str
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NeedleKind:
    """A kind of what is hidden: its words and its numbers.

    In the words, ``{key}`` and ``{value}`` are a name and its value, ``{query}`` the names that are
    asked for, ``{kinds}`` the kind of the values and ``{kind}`` the same in the singular.

    Attributes:
        introduction: Text in front of the haystack.
        needle: A sentence with a value.
        question: Text behind the haystack.
        gap: What stands in front of a needle, and of each repetition of the filler.
        keys: How many names there are.
        per_key: Values of each of them.
        asked: How many of the names are asked for.
        key: Kind of the names; None if the value has none.
        value: Kind of the values, unless the user wants another.
        answer_tokens: Longest answer for each of ``VALUES``, in tokens.
        among_others: Whether it can only be hidden among others of its kind.
        whole_number: Whether the first number in an answer has to be the value, if that is one.
    """

    introduction: str
    needle: str
    question: str
    gap: str
    keys: int = 1
    per_key: int = 1
    asked: int = 1
    key: str | None = WORDS
    value: str = NUMBERS
    answer_tokens: tuple[int, int, int] = (128, 128, 128)
    among_others: bool = False
    whole_number: bool = False


_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.",
    "One of the special magic {kinds} for {key} is: {value}.",
    "\nWhat is the special magic {kind} for {query} mentioned in the provided text? "
    "The special magic {kind} for {query} mentioned in the provided text is",
    "\n",
)
_ALL = (
    "Some special magic {kinds} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kinds} afterwards.",
    _ONE[1],
    "\nWhat are all the special magic {kinds} for {query} mentioned in the provided text? "
    "The special magic {kinds} for {query} mentioned in the provided text are",
    "\n",
)
_PAIRS = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\n"
    "JSON data:\n{{",
    '"{key}": "{value}",',
    '\n}}\n\nKey: "{query}"\nCorresponding value:',
    "\n ",
)
_SHORT = (12, 16, 48)

NEEDLES: dict[str, NeedleKind] = {
    "passkey": NeedleKind(
        PREFIX, KEY[1:], QUESTION, " ", key=None, answer_tokens=_SHORT, whole_number=True
    ),
    "passkeys": NeedleKind(
        PREFIX,
        "The pass key of the {key} is {value}. Remember it. {value} is the pass key of the {key}.",
        " What is the pass key of the {query}? The pass key of the {query} is",
        " ",
        keys=_SEVERAL,
        answer_tokens=_SHORT,
        whole_number=True,
    ),
    "key-value": NeedleKind(
        *_PAIRS, key=UUIDS, value=UUIDS, answer_tokens=(50, 50, 50), among_others=True
    ),
    "single": NeedleKind(*_ONE),
    "multi-key": NeedleKind(*_ONE, keys=_SEVERAL),
    "multi-value": NeedleKind(*_ALL, per_key=_SEVERAL),
    "multi-query": NeedleKind(*_ALL, keys=_SEVERAL, asked=_SEVERAL),
}
"""What can be hidden, by name; the first one is the default."""


@dataclass(frozen=True, slots=True)
class Needle:
    """What is hidden in the texts of a run.

    Args:
        name: Key of ``NEEDLES``.
        values: One of ``VALUES``; None for the usual one.

    Raises:
        UsageError: A name is unknown.
    """

    name: str = next(iter(NEEDLES))
    values: str | None = None

    def __post_init__(self) -> None:
        for flag, value, known in (("needle", self.name, NEEDLES), ("values", self.values, VALUES)):
            if value is not None and value not in known:
                raise UsageError(
                    f"unknown value {value!r} for --{flag}", hint="one of " + ", ".join(known)
                )

    @property
    def kind(self) -> NeedleKind:
        """Its words and numbers."""
        return NEEDLES[self.name]

    @property
    def value(self) -> str:
        """Kind of its values, one of ``VALUES``."""
        return self.values or self.kind.value

    @property
    def answer_tokens(self) -> int:
        """Longest answer, in tokens."""
        return self.kind.answer_tokens[VALUES.index(self.value)]

    def quiz(self, seed: int, length: int, depth: float, trial: int) -> Quiz:
        """What a trial hides; the same for the same arguments on any machine."""
        kind, place = self.kind, f"{seed}/{length}/{depth:g}/{trial}"
        if kind == NEEDLES["passkey"] and self.value == NUMBERS:
            values = [key_for(seed, length, depth, trial)]
            keys = [""]
        else:
            draws = random.Random(f"{place}/{self.name}/{self.value}")
            keys = [""] if kind.key is None else _distinct(draws, kind.key, kind.keys)
            # A value that is also a name would be in the question, and right by chance.
            values = _distinct(draws, self.value, kind.keys * kind.per_key, keys)
        needles = tuple(
            kind.gap + self._said(kind.needle, key=keys[at // kind.per_key], value=value)
            for at, value in enumerate(values)
        )
        asked = keys[: kind.asked]
        query = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
        return Quiz(
            self._said(kind.introduction),
            needles,
            self._said(kind.question, query=query),
            tuple(values[: kind.asked * kind.per_key]),
        )

    def others(self, seed: int) -> Iterator[str]:
        """Needles without end, none of whose names is ever asked for, gaps included."""
        kind = self.kind
        draws = random.Random(f"{seed}/{self.name}/{self.value}/others")
        while True:
            key = _DRAW[kind.key or WORDS](draws, False)
            value = _DRAW[self.value](draws, False)
            yield kind.gap + self._said(kind.needle, key=key, value=value)

    def score(self, answer: str, expected: tuple[str, ...]) -> float:
        """The share of the expected values that an answer contains, whatever their case.

        Of a pass key that is a number, the first number of the answer must be the key.
        """
        if self.kind.whole_number and self.value == NUMBERS:
            return first_integer(answer, expected[0])
        return string_match_all(answer, expected)

    def _said(self, words: str, **parts: str) -> str:
        return words.format(kinds=self.value, kind=self.value[:-1], **parts)


def key_for(seed: int, length: int, depth: float, trial: int) -> str:
    """The five-digit pass key of a trial; the same for the same arguments on any machine."""
    return str(random.Random(f"{seed}/{length}/{depth:g}/{trial}").randint(10_000, 99_999))


def _distinct(draws: random.Random, kind: str, count: int, others: Sequence[str] = ()) -> list[str]:
    """So many values that differ from each other and from ``others``."""
    found = dict.fromkeys(others)
    while len(found) < count + len(others):
        found[_DRAW[kind](draws, True)] = None
    return list(found)[len(others) :]


def _number(draws: random.Random, asked: bool) -> str:
    return str(draws.randint(10**6, 10**7 - 1))


def _word(draws: random.Random, asked: bool) -> str:
    """An adjective and a noun; those that may be asked for differ from all others."""
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    half = len(adjectives) // 2
    adjective = adjectives[draws.randrange(half) + (0 if asked else half)]
    return f"{adjective}-{nouns[draws.randrange(len(nouns))]}"


def _uuid(draws: random.Random, asked: bool) -> str:
    return str(uuid.UUID(int=draws.getrandbits(128), version=4))


_DRAW: dict[str, Callable[[random.Random, bool], str]] = {
    NUMBERS: _number,
    WORDS: _word,
    UUIDS: _uuid,
}
