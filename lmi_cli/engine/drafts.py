"""Drafts of the next tokens, from the places where the text before them stands already.

SuffixDecoding (Oliaro et al. 2024, arXiv 2411.04975): where the newest tokens of an answer also
stand in an earlier text, what follows there is a guess at what comes next. A model checks a guess
of several tokens in one pass, which takes little longer than one token, since the weights are read
once. A token that it would not have chosen itself ends the guess, so no answer changes.

The paper keeps two suffix trees: one of all earlier outputs, one of the request. Here the first
text is the document, the second is what the answer follows and the answer itself. Instead of a
tree, a text keeps the places where the longest match ends, which are all that is asked of it: a new
token leaves those where it follows, and only when none is left is the text searched again, by
comparing all of it with the newest token, then the places found with the token before it, and so
on. That takes a tenth of a millisecond for 200,000 tokens; a document that is searched often enough
is sorted once (``Places``).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmi_cli.engine.engine import Ids
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.errors import UsageError

MOST_DRAFTED = 7
"""Tokens of a draft: with the one before it, as many as are attended to in one pass over keys."""

MOST_ROWS = 16
"""Tokens of one pass over all answers that are decoded together, drafts included, if the model's
``alike_rows`` do not say how many: it then rounds otherwise anyway."""

MOST_SEARCHED = 2**20
"""Tokens of a document, from its end on, that are searched for the text before a draft."""

LEAST_PROBABILITY = 0.2
"""A draft ends where the share of places that continue like it gets smaller: one more token adds
about an eighth to the time of a pass. (The reference implementation, on a GPU, takes 0.1.)"""

DRAFTED_COST = 0.3
"""What a drafted token adds to the time of a pass, relative to a pass of one token, where that is
most: with AVX2 and blocks of a GGUF file. Elsewhere it is 0.1 to 0.2."""

MOST_LOST = (1.0, 0.02)
"""How many passes drafts may cost more than they save: so many, and a share of all passes."""

_MOST_SAVED = 4.0
_LEAST_MATCH, _MOST_MATCH = 2, 32
_LONGEST_SUFFIX = 64
_MOST_KEPT = 2**14
_SCANS = 64


class Places:
    """Where each token stands in a text that does not change.

    The text is compared with the token, until that has taken as long as a sorted list of all places
    takes, from which any token's can be read.
    """

    def __init__(self, tokens: Ids) -> None:
        self.tokens = tokens
        self._scans = 0
        self._sorted: tuple[NDArray[np.intp], Ids] | None = None

    @property
    def is_sorted(self) -> bool:
        """Whether there is a list of all places by now."""
        return self._sorted is not None

    def of(self, token: int) -> NDArray[np.intp]:
        """All places of a token but the last one of the text, in ascending order."""
        tokens = self.tokens[:-1]
        if self._sorted is None:
            self._scans += 1
            if self._scans <= _SCANS:
                return np.flatnonzero(tokens == token)
            order = np.argsort(tokens, kind="stable")
            self._sorted = order, tokens[order]
        order, ascending = self._sorted
        first, stop = np.searchsorted(ascending, [token, token + 1])
        return order[first:stop]


class _Text:
    """A text, and the places in it before which stands the same as before the next token.

    Args:
        tokens: The text, which is not changed.
        places: Of its tokens, if it is never extended.
    """

    def __init__(self, tokens: Ids, places: Places | None = None) -> None:
        self._tokens = tokens
        self._places = places
        self._count = len(tokens)
        self._ends = np.empty(0, dtype=np.int64)
        self.match = 0
        """Number of tokens before the next one that stand before each of the places."""

    def extend(self, token: int) -> None:
        """Append a token to the text itself."""
        if self._count == len(self._tokens):
            more = np.empty(2 * self._count + 64, dtype=np.int32)
            more[: self._count] = self._tokens
            self._tokens = more
        self._tokens[self._count] = token
        self._count += 1

    def follow(self, token: int) -> None:
        """Leave the places at which ``token`` follows."""
        if not len(self._ends):
            return
        self._ends = self._ends[self._tokens[self._ends] == token] + 1
        self._ends = self._ends[self._ends < self._count]
        self.match = self.match + 1 if len(self._ends) else 0

    def search(self, before: list[int]) -> None:
        """Find the places after the longest suffix of ``before``, unless there are some already."""
        if len(self._ends) or not before or self._count < 2:
            return
        # Of the last token it is not known what follows.
        if self._places is not None:
            found = self._places.of(before[-1])
        else:
            found = np.flatnonzero(self._tokens[: self._count - 1] == before[-1])
        match = 0
        while len(found):
            self._ends, match = found + 1, match + 1
            if match == min(len(before), _LONGEST_SUFFIX):
                break
            found = found[found >= match]
            found = found[self._tokens[found - match] == before[-match - 1]]
        self.match = match

    def draft(self, most: int) -> tuple[list[int], float]:
        """At most so many tokens, and how many of them are expected to be right.

        Each is the one that follows most often, and of those the one that followed last.
        """
        ends, drafted = self._ends, list[int]()
        share, expected = 1.0, 0.0
        while len(ends) and len(drafted) < most:
            following = self._tokens[ends]
            token = _most_frequent(following)
            same = following == token
            share *= float(same.mean())
            if share < LEAST_PROBABILITY:
                break
            drafted.append(token)
            expected += share
            ends = ends[same] + 1
            ends = ends[ends < self._count]
        return drafted, expected


def _most_frequent(tokens: NDArray[np.int32]) -> int:
    """The most frequent token; of several, the one that comes last."""
    if len(tokens) == 1:
        return int(tokens[0])
    values, places, counts = np.unique(tokens[::-1], return_index=True, return_counts=True)
    most = counts == counts.max()
    return int(values[most][places[most].argmin()])


class Drafter:
    """Drafts for one answer.

    A draft is at most as long as the match before it, as in the paper's reference implementation.
    How long a match has to be depends on how good the drafts have been: twice as long after one of
    which no token was right, half as long after one of which half were, and a text is not searched
    more often than a match of that length could be missed. Nor is anything drafted while wrong
    drafts have cost more than ``MOST_LOST``, so that text which quotes nothing costs little more
    than without drafts.

    Args:
        document: What is read, which may be long.
        before: What stands before the answer; earlier answers may come first.

    Attributes:
        passes: Passes that were made for the answer.
        answer: Its tokens so far.
    """

    def __init__(self, document: Places, before: Ids) -> None:
        self._texts = (_Text(document.tokens, document), _Text(before))
        self._own = self._texts[1]
        self._suffix = before[-_LONGEST_SUFFIX:].tolist()
        self._needed = _LEAST_MATCH
        self._unsearched = _MOST_MATCH
        self._saved = 0.0
        self.passes = 0
        self.answer: list[int] = []

    def draft(self, most: int) -> list[int]:
        """At most so many tokens that may come next; none where nothing suggests any."""
        start, share = MOST_LOST
        most = min(most, int((self._saved + start + share * self.passes) / DRAFTED_COST))
        if most < 1:
            return []
        if self._unsearched >= self._needed // 2:
            self._unsearched = 0
            for text in self._texts:
                text.search(self._suffix)
        drafts = [
            text.draft(min(most, MOST_DRAFTED, text.match))
            for text in self._texts
            if text.match >= self._needed
        ]
        drafted, _ = max(drafts, key=lambda it: it[1], default=(list[int](), 0.0))
        return drafted

    def take(self, tokens: list[int], drafted: int) -> None:
        """Record the tokens of one pass, all right ones of a draft of ``drafted`` and one more."""
        for token in tokens:
            self._own.extend(token)
            for text in self._texts:
                text.follow(token)
        self._suffix = [*self._suffix, *tokens][-_LONGEST_SUFFIX:]
        self._unsearched += len(tokens)
        self.answer += tokens
        self.passes += 1
        if drafted:
            right = len(tokens) - 1
            self._saved = min(self._saved + right - DRAFTED_COST * drafted, _MOST_SAVED)
            if not right:
                self._needed = min(2 * self._needed, _MOST_MATCH)
            elif 2 * right >= drafted:
                self._needed = max(self._needed // 2, _LEAST_MATCH)


def require_possible(model: LanguageModel, speculate: str) -> None:
    """Refuse drafts that are demanded of a model that carries a state.

    Raises:
        UsageError: They are.
    """
    if speculate == "suffix" and model.is_recurrent:
        raise UsageError(
            "drafts are not possible with this model: its recurrent state cannot forget a wrong "
            "one",
            hint="leave --speculate out",
        )


class Drafts:
    """Drafters for the answers about a document.

    Args:
        model: The language model that answers.
        speculate: One of :data:`lmi_cli.engine.SPECULATE`.
        document: Its tokens.

    Attributes:
        passes: Passes of all answers so far.

    Raises:
        UsageError: Drafts are demanded of a model that carries a state.
    """

    def __init__(self, model: LanguageModel, speculate: str, document: Ids) -> None:
        require_possible(model, speculate)
        exact = model.alike_rows > 1 and not model.is_recurrent
        self._wanted = speculate == "suffix" or (speculate == "auto" and exact)
        self._document = Places(document[-MOST_SEARCHED:])
        self._answers = np.empty(0, dtype=np.int32)
        self.passes = 0

    def of(self, prompts: Sequence[Ids]) -> list[Drafter] | None:
        """A drafter for the answer to each prompt; None if nothing is to be drafted."""
        if not self._wanted:
            return None
        return [
            Drafter(self._document, np.concatenate((self._answers, prompt))) for prompt in prompts
        ]

    def keep(self, drafters: Sequence[Drafter] | None) -> None:
        """Draft from what has been answered, too, from now on."""
        for each in drafters or ():
            self.passes += each.passes
            answers = np.concatenate((self._answers, np.array(each.answer, dtype=np.int32)))
            self._answers = answers[-_MOST_KEPT:]
