"""Texts of an exact number of tokens in which sentences are hidden.

A text is put together from token ids of pieces that are encoded one by one, so that its length is
exact with any tokenizer. Pieces are whole sentences: what is hidden stands between two of them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.tasks.needles import FILLER, Needle, Quiz
from lmi_cli.text.encoded import Encoded
from lmi_cli.text.prompts import ContinuationPrompts
from lmi_cli.text.sentences import sentences
from lmi_cli.text.tokenizer import Tokenizer

_LONGEST_PIECE_CHARS = 1000
"""A longer sentence is divided between two words."""

_SHIFTS = 64
"""Beginnings of a haystack that are tried until none cuts a character."""


@dataclass(frozen=True, slots=True, eq=False)
class PasskeyText:
    """The tokens of a text of the test, up to the question, and the text itself.

    Attributes:
        encoded: The tokens.
        text: Their text.
        places: Tokens before each of the hidden sentences, in the order of the quiz.
    """

    encoded: Encoded
    text: str
    places: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.encoded)

    def first(self, count: int) -> "PasskeyText":
        """The first ``count`` tokens, or all if there are fewer."""
        if count >= len(self):
            return self
        return PasskeyText(self.encoded.first(count), self.text[: self.encoded.starts[count]])

    def without(self, count: int) -> "PasskeyText":
        """All tokens but the first ``count``."""
        start = len(self.text) if count == len(self) else int(self.encoded.starts[count])
        return PasskeyText(self.encoded.after(count, start), self.text[start:])

    def begins_character(self, token: int) -> bool:
        """Whether a token begins with a character, and not within the bytes of one."""
        starts = self.encoded.starts
        return token == 0 or bool(starts[token] > starts[token - 1])


class Haystack(ABC):
    """Sentences without end, as many tokens of them as are wanted.

    Args:
        tokenizer: Encodes them.

    Attributes:
        name: What it is, for reports.
        identity: Differs between haystacks that differ.
    """

    name: str
    identity: str

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[PasskeyText] = []
        self._ends: list[int] = []
        self._more = self._texts()

    @abstractmethod
    def _texts(self) -> Iterator[str]:
        """The sentences in order, each with what stands between it and the one before it."""

    def _piece(self, text: str) -> PasskeyText:
        return PasskeyText(self._tokenizer.encode(text, continued=True), text)

    def _add(self) -> None:
        piece = self._piece(next(self._more))
        self._ends.append(len(piece) + (self._ends[-1] if self._ends else 0))
        self._pieces.append(piece)

    def _least(self, tokens: int) -> int:
        """The number of sentences that have at least so many tokens together."""
        while tokens > (self._ends[-1] if self._ends else 0):
            self._add()
        return int(np.searchsorted(self._ends, tokens)) + 1 if tokens else 0

    def cut(self, tokens: int) -> tuple[list[PasskeyText], list[PasskeyText]]:
        """Exactly so many tokens: part of a sentence, or nothing, and whole sentences behind it.

        Where characters have tokens of their own for their bytes, the first one may be cut if it
        cannot be avoided.
        """
        cuts, least = [], self._least(tokens)
        for count in range(least, least + _SHIFTS):
            if count > len(self._ends):
                self._add()
            excess = (self._ends[count - 1] if count else 0) - tokens
            first = int(np.searchsorted(self._ends, excess, side="right"))
            excess -= self._ends[first - 1] if first else 0
            cuts.append((count, first, excess))
            if not excess or self._pieces[first].begins_character(excess):
                break
        else:
            count, first, excess = cuts[0]
        whole = self._pieces[first:count]
        return ([whole[0].without(excess)], whole[1:]) if excess else ([], whole)


class Noise(Haystack):
    """The filler of the paper again and again; ``gap`` stands in front of each repetition."""

    name = "noise"

    def __init__(self, tokenizer: Tokenizer, gap: str = " ") -> None:
        super().__init__(tokenizer)
        self.identity = self.name
        self._filler = super()._piece(gap + FILLER)

    def _texts(self) -> Iterator[str]:
        while True:
            yield self._filler.text

    def _piece(self, text: str) -> PasskeyText:
        return self._filler


class OtherNeedles(Haystack):
    """Needles that are not asked for."""

    name = "needles"

    def __init__(self, tokenizer: Tokenizer, needle: Needle, seed: int) -> None:
        self._others = needle.others(seed)
        super().__init__(tokenizer)
        self.identity = self.name

    def _texts(self) -> Iterator[str]:
        return self._others


class OwnText(Haystack):
    """A text, repeated as often as is needed.

    Args:
        tokenizer: Encodes it.
        name: Where it comes from.
        text: The text.

    Raises:
        NoInputError: There is nothing in it but white space.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, text: str) -> None:
        if not text.strip():
            raise NoInputError(f"{name} has no text to hide anything in")
        self.name = name
        self.identity = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self._text = text
        super().__init__(tokenizer)

    def _texts(self) -> Iterator[str]:
        while True:
            edge = 0
            for begin, end in sentences(self._text):
                gap = self._text[edge:begin] if edge else "\n\n"
                yield from _divided((gap or " ") + self._text[begin:end])
                edge = end
            if not self._ends[-1]:
                raise NoInputError(f"the model has no tokens for the text of {self.name}")


HAYSTACKS = (Noise.name, OtherNeedles.name)
"""Those that are no text of the user's."""


def require_haystack(needle: Needle, name: str | None) -> None:
    """Refuse a haystack that a needle cannot be hidden in; None is the usual one.

    Raises:
        UsageError: It cannot.
    """
    if needle.kind.among_others and name is not None:
        raise UsageError(
            f"--needle {needle.name} is hidden among pairs of its own, so it cannot be combined "
            "with --haystack"
        )
    if needle.kind.key is None and name == OtherNeedles.name:
        raise UsageError(
            f"--needle {needle.name} has no name by which it could be told from others, so it "
            f"cannot be combined with --haystack {name}",
            hint="--needle passkeys has names",
        )


def haystack_of(
    tokenizer: Tokenizer, needle: Needle, seed: int, name: str | None, text: str | None = None
) -> Haystack:
    """The haystack of a name, or of the text of a file; None is the usual one of the needle."""
    require_haystack(needle, name)
    if text is not None and name is not None:
        return OwnText(tokenizer, name, text)
    if needle.kind.among_others or name == OtherNeedles.name:
        return OtherNeedles(tokenizer, needle, seed)
    return Noise(tokenizer, needle.kind.gap)


def _divided(sentence: str) -> Iterator[str]:
    """A sentence in pieces that are not too long."""
    while len(sentence) > _LONGEST_PIECE_CHARS:
        space = sentence.rfind(" ", 1, _LONGEST_PIECE_CHARS)
        at = space if space > 0 else _LONGEST_PIECE_CHARS
        yield sentence[:at]
        sentence = sentence[at:]
    yield sentence


def room_beside(prompts: ContinuationPrompts, length: int, quiz: Quiz) -> int:
    """Tokens that are left to the haystack in a prompt of so many tokens.

    Raises:
        UsageError: The length leaves no room for introduction, needles and question.
    """
    tokenizer, prompt = prompts.tokenizer, prompts.whole()
    around = len(prompt.prefix) + len(prompt.tail(quiz.question))
    around += len(tokenizer.encode(quiz.introduction))
    around += sum(len(tokenizer.encode(text, continued=True)) for text in quiz.needles)
    if length < around:
        raise UsageError(
            f"length {length:,} is too short for a passkey prompt",
            hint=f"the shortest for this model is {around:,} tokens",
        )
    return length - around


def build_text(
    prompts: ContinuationPrompts, length: int, depth: float, quiz: Quiz, haystack: Haystack
) -> PasskeyText:
    """A text that makes, with prefix and question, a prompt of exactly ``length`` tokens.

    The first needle is placed after ``depth`` percent of the haystack, at the nearest end of a
    sentence. The others follow at equal distances; behind the end, they go on at the beginning.

    Raises:
        UsageError: The length leaves no room for introduction, needles and question.
    """
    begin, pieces = haystack.cut(room_beside(prompts, length, quiz))
    tokenizer = prompts.tokenizer
    head = PasskeyText(tokenizer.encode(quiz.introduction), quiz.introduction)
    needles = [PasskeyText(tokenizer.encode(text, continued=True), text) for text in quiz.needles]
    ends = [0, *accumulate(map(len, pieces))]
    hidden: dict[int, list[int]] = {}
    for number in range(len(needles)):
        at = depth + 100 * number / len(needles)
        hidden.setdefault(_nearest(ends, at if at <= 100 else at - 100), []).append(number)
    parts, places, tokens = [head, *begin], [0] * len(needles), len(head) + sum(map(len, begin))
    edge = 0
    for place in sorted(hidden):
        parts += pieces[edge:place]
        tokens += ends[place] - ends[edge]
        edge = place
        for number in hidden[place]:
            parts.append(needles[number])
            places[number] = tokens
            tokens += len(needles[number])
    parts += pieces[edge:]
    return replace(_joined(parts), places=tuple(places))


def _nearest(ends: Sequence[int], percent: float) -> int:
    """The number of whole pieces, which end after so many tokens, before a place in the text."""
    target = ends[-1] * percent / 100
    before = min(int(np.searchsorted(ends, target, side="right")) - 1, len(ends) - 1)
    if before == len(ends) - 1:
        return before
    return round(before + (target - ends[before]) / (ends[before + 1] - ends[before]))


def _joined(parts: Iterable[PasskeyText]) -> PasskeyText:
    parts = list(parts)
    offsets = np.cumsum([0, *(len(part.text) for part in parts)])
    starts = [part.encoded.starts + at for part, at in zip(parts, offsets, strict=False)]
    ids = np.concatenate([part.encoded.ids for part in parts])
    return PasskeyText(Encoded(ids, np.concatenate(starts)), "".join(part.text for part in parts))
