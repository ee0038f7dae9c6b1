"""Pick the sentences of a document that say the most about it (extractive summaries).

A sentence counts by the words it shares with the text: those that are frequent in the whole and
rare in single sentences (TF-IDF, the centroid of Radev et al. 2004, "Centroid-based summarization
of multiple documents"), and by how early it stands. ``docs/summaries.md`` has the measurements,
also of what the model's hidden states, loss and attention would add: nothing that can be measured.
"""

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lmi_cli.text.comments import comments
from lmi_cli.text.sentences import behind_headings, is_whole, sentences, words

_FEWEST_WORDS, _MOST_WORDS = 7, 40
_PAIR = 2
_LEAST_LETTERS = 0.85
"""White space included: formulas, tables and code have fewer."""
_NOT_PROSE = re.compile(
    r"://|[=<>{}\\|]|\(.{60}|\.\.\.|…|Permission is|[Cc]opyright|[Aa]ll rights reserved"
)
# Speech, and a sentence in the first or second person says little without its context.
_SPEECH = re.compile(r"[\"“”«»]|--[A-Z]|\b(?:I|you|your|my|me|You|Your|My)\b")
# What a sentence refers to stands before it. English only: in other languages nothing matches.
_REFERS_BACK = re.compile(
    r"(?:This|These|Those|That|It|Its|He|She|His|Her|They|Their|However|But|And|Or|Thus|Therefore|"
    r"Hence|Moreover|Furthermore|Also|So|Then|Such|Here|There|Similarly|Instead|Yet|Both|Finally|"
    r"Second|Third|Figure|Fig|Table)\b"
)
_LENGTH_POWER = 0.75
"""Between no preference for short sentences (0) and the mean weight of their words (1)."""
_REFERRING_PENALTY = 0.7
"""In standard deviations."""
_STEM = 6
"""Words are compared by so many of their first letters, as a writer changes their endings."""
_OVERLAP = 0.5
"""Share of its words from which on a sentence repeats another one."""
_SPAN_TOKENS = 16_384
"""A long document is divided into spans of so many tokens, each with its share of the summary."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that could stand by itself.

    Attributes:
        begin: Offset in the text of its first character.
        end: Offset behind its last.
        said: Its words in one line.
        words: Its words in lower case; see :func:`lmi_cli.text.sentences.words`.
    """

    begin: int
    end: int
    said: str
    words: frozenset[str]

    def repeats(self, others: Iterable["Sentence"]) -> bool:
        """Whether it shares most of its words with one of the others."""
        return any(
            len(self.words & other.words) > _OVERLAP * min(len(self.words), len(other.words))
            for other in others
        )


class Picker:
    """Picks sentences of a document that is divided into parts.

    Args:
        text: The document.
        parts: Offsets in the text at which each part begins and ends.
        tokens: The length of each part.
        code: The suffix of the file of each part that is code, by number; only its comments are
            sentences.
        borders: Offsets that no sentence crosses, ascending, such as those of pages, which repeat
            the titles of their chapters.

    Attributes:
        sentences: The candidates of each part, in order; speech only where there is nothing else.
    """

    def __init__(
        self,
        text: str,
        parts: Sequence[tuple[int, int]],
        tokens: Sequence[int],
        code: Mapping[int, str] | None = None,
        borders: Sequence[int] = (),
    ) -> None:
        self.sentences: list[list[Sentence]] = []
        self._words: list[Counter[str]] = []
        self._among: Counter[str] = Counter()
        self._count = 0
        self._tokens = tokens
        code = code or {}
        self._said = [
            partial(_said_in_code, text, *span, code[number])
            if number in code
            else partial(_said_in_prose, text, *span, borders)
            for number, span in enumerate(parts)
        ]
        for number, said in enumerate(self._said):
            candidates, others, counts = list[Sentence](), list[Sentence](), Counter[str]()
            for first, last, sentence in said():
                found = words(sentence)
                counts.update(found)
                self._among.update(unique := frozenset(found))
                self._count += 1
                # A comment may begin with the name of what it describes.
                begins = sentence[:1].upper() + sentence[1:] if number in code else sentence
                # Two pairs of letters of an unspaced script are about a word.
                count = len(found) - sum(len(word) == _PAIR for word in found) // 2
                if _FEWEST_WORDS <= count <= _MOST_WORDS and _is_prose(begins):
                    kind = others if _SPEECH.search(sentence) else candidates
                    kind.append(Sentence(first, last, sentence, unique))
            self.sentences.append(candidates or others)
            self._words.append(counts)
        self._total: Counter[str] = Counter()
        for counts in self._words:
            self._total.update(counts)

    def of_part(self, number: int, count: int, besides: Sequence[Sentence] = ()) -> list[Sentence]:
        """The sentences that say the most about one part, in order.

        Args:
            number: Of the part.
            count: How many at most.
            besides: Sentences that are not to be repeated.
        """
        found = self.sentences[number]
        order = 1 / (1 + np.arange(len(found)))
        return _best(found, self._scores(found, self._words[number]) + order, count, besides)

    def of_document(
        self,
        count: int,
        among: Sequence[int],
        bonus: Mapping[Sentence, float] | None = None,
    ) -> list[Sentence]:
        """The sentences that say the most about the whole document, in order.

        Args:
            count: How many at most.
            among: Numbers of the parts to pick from.
            bonus: Added to the scores of sentences, in standard deviations, in place of what early
                sentences get.
        """
        tokens = sum(self._tokens[part] for part in among)
        spans = 1 if bonus is not None else max(1, min(count, len(among), tokens // _SPAN_TOKENS))
        picked: list[Sentence] = []
        for span in range(spans):
            here = among[span * len(among) // spans : (span + 1) * len(among) // spans]
            found = [sentence for part in here for sentence in self.sentences[part]]
            scores = self._scores(found, self._total)
            if bonus is None:
                scores -= _standard(np.arange(len(found), dtype=np.float64))
            else:
                scores += np.array([bonus.get(sentence, 0.0) for sentence in found])
            wanted = (span + 1) * count // spans - span * count // spans
            picked += _best(found, scores, wanted, picked)
        return picked

    def support(
        self, said: str, among: Sequence[int], besides: Collection[str] = ()
    ) -> tuple[float, Sentence | None]:
        """How far one part of the document contains the words of a text, and where.

        Args:
            said: The text.
            among: Numbers of the parts to look in.
            besides: Words that do not count.

        Returns:
            The largest share of its words that one part contains, each word weighted by its rarity,
            and the sentence of that part that shares the most with it; None if none shares any.
            Words are alike if their first letters are.
        """
        weights = {word[:_STEM]: self._rarity(word) for word in words(said) if word not in besides}
        total = sum(weights.values())

        def shared(found: Iterable[str]) -> float:
            stems = {word[:_STEM] for word in found}
            return sum(weight for stem, weight in weights.items() if stem in stems)

        if not among or total <= 0:
            return 0.0, None
        part = max(among, key=lambda number: shared(self._words[number]))
        best, nearest = 0.0, None
        for first, last, sentence in self._said[part]():
            found = frozenset(words(sentence))
            if (weight := shared(found)) > best:
                best, nearest = weight, Sentence(first, last, sentence, found)
        return shared(self._words[part]) / total, nearest

    def _scores(self, found: Sequence[Sentence], counts: Mapping[str, int]) -> NDArray[np.float64]:
        """How much each sentence says of the text whose words are counted, standardised."""
        weights = [
            sum(counts.get(word, 0) * self._rarity(word) ** 2 for word in sentence.words)
            / (len(sentence.words) + _FEWEST_WORDS) ** _LENGTH_POWER
            for sentence in found
        ]
        referring = [bool(_REFERS_BACK.match(sentence.said)) for sentence in found]
        scores = _standard(np.array(weights, dtype=np.float64))
        return scores - _REFERRING_PENALTY * np.array(referring, dtype=np.float64)

    def _rarity(self, word: str) -> float:
        """The logarithm of the share of sentences that contain a word, negated (IDF)."""
        return math.log((self._count + 1) / (self._among[word] + 0.5))


def _best(
    found: Sequence[Sentence],
    scores: NDArray[np.float64],
    count: int,
    besides: Sequence[Sentence],
) -> list[Sentence]:
    """The sentences with the highest scores that do not repeat each other, in order."""
    picked: list[Sentence] = []
    for at in np.argsort(-scores, kind="stable").tolist():
        if len(picked) == count:
            break
        if not found[at].repeats([*picked, *besides]):
            picked.append(found[at])
    return sorted(picked, key=lambda sentence: sentence.begin)


def _said_in_prose(
    text: str, begin: int, end: int, borders: Sequence[int]
) -> Iterable[tuple[int, int, str]]:
    inside = borders[bisect_right(borders, begin) : bisect_left(borders, end)]
    for low, high in pairwise([begin, *inside, end]):
        for first, last in sentences(text, low, high):
            first = behind_headings(text, first, last)
            yield first, last, " ".join(text[first:last].split())


def _said_in_code(text: str, begin: int, end: int, suffix: str) -> Iterable[tuple[int, int, str]]:
    """The first sentence of each comment."""
    for first, last, content in comments(text, begin, end, suffix):
        for start, stop in sentences(content):
            yield first, last, " ".join(content[start:stop].split())
            break


def _is_prose(sentence: str) -> bool:
    # Vowel signs are marks (M), not letters (L).
    letters = sum(char.isspace() or unicodedata.category(char)[0] in "LM" for char in sentence)
    enough = letters > _LEAST_LETTERS * len(sentence)
    return enough and is_whole(sentence) and not _NOT_PROSE.search(sentence)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values less their mean, over their standard deviation; zeros if all are equal."""
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
