"""Notice in time that a text which is being written begins to repeat itself."""

import re

# White space behind a sentence belongs to the next one.
_END = re.compile(r"[.!?](?=\s)|[。！？]|(?<=\S)(?=\s*\n[ \t]*\n)")
_WORD = re.compile(r"\w+(?:[.'’-]\w+)*")

_UNFINISHED = re.compile(r"[\w.'’-]+$")

ALIKE = 6
"""A sentence that begins with as many words of an earlier one says the same again."""

_LEAST = 3
"""A whole sentence with at least so many words must not be said twice."""


class RepeatGuard:
    """Passes text on until a sentence begins like an earlier one.

    While the words of a sentence are those of an earlier one, its text is held back; so nothing
    that repeats has been passed on when the repetition is noticed.

    Args:
        asked: A question; behind the first sentence, it counts as said as well.

    Attributes:
        repeats: Whether a repetition has been noticed; from then on nothing is passed on.
    """

    def __init__(self, asked: str = "") -> None:
        self.repeats = False
        words = _words(asked)
        self._asked = [words, ["question", *words]] if len(words) >= _LEAST else []
        self._earlier: list[list[str]] = []
        self._sentence = ""
        self._shown = 0
        """Characters of the sentence that have been passed on."""
        self._differs = False
        """Whether the sentence has begun in another way than all before it."""

    def push(self, text: str) -> str:
        """Take the next piece of text and return what can be shown by now."""
        if self.repeats:
            return ""
        self._sentence += text
        shown = []
        while (end := _END.search(self._sentence)) is not None:
            whole, rest = self._sentence[: end.end()], self._sentence[end.end() :]
            words = _words(whole)
            if self._is_repeated(words, whole=True):
                self.repeats = True
                break
            shown.append(whole[self._shown :])
            self._earlier += [words, *self._asked] if words else []
            self._asked = [] if words else self._asked
            # White space behind the end may have been passed on already.
            self._sentence, self._shown = rest, max(0, self._shown - len(whole))
            self._differs = False
        if not self.repeats:
            # The last word may go on.
            words = _words(_UNFINISHED.sub("", self._sentence))
            self.repeats = self._is_repeated(words, whole=False)
            if words and not any(each[: len(words)] == words for each in self._earlier):
                self._differs = True
            if not self.repeats and (self._differs or not self._earlier):
                shown.append(self._sentence[self._shown :])
                self._shown = len(self._sentence)
        return "".join(shown)

    def flush(self) -> str:
        """What has been held back, if the text ends here without repeating itself."""
        if self.repeats or self._is_repeated(_words(self._sentence), whole=True):
            return ""
        return self._sentence[self._shown :]

    def _is_repeated(self, words: list[str], *, whole: bool) -> bool:
        if self._differs:
            return False
        if len(words) >= ALIKE:
            return any(each[:ALIKE] == words[:ALIKE] for each in self._earlier)
        return whole and len(words) >= _LEAST and words in self._earlier


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
