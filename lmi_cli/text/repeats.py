"""Notice in time that a text which is being written begins to repeat itself."""

import re

# White space behind a sentence belongs to the next one.
_END = re.compile(r"[.!?](?=\s)|[。！？]|(?<=\S)(?=\s*\n[ \t]*\n)")
_WORD = re.compile(r"\w+(?:[.'’-]\w+)*")
_JOINS = ".'’-_"

LEAST_ALIKE = 6
SHARE_ALIKE = 0.8
"""A sentence that begins with so many words of an earlier one, and with such a share of them, says
the same again."""

_LEAST = 3
"""A whole sentence with at least so many words must not be said twice."""
_LONGEST_WORD = 100
_BACK_CHARS = 80
"""An end is looked for so far back, since white space behind it may come later."""


class RepeatGuard:
    """Passes text on until a sentence says again what an earlier one has said.

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
        self._searched = 0
        """Characters of the sentence in which there is no end."""

    def push(self, text: str) -> str:
        """Take the next piece of text and return what can be shown by now."""
        if self.repeats:
            return ""
        self._sentence += text
        shown: list[str] = []
        while (end := _END.search(self._sentence, self._searched)) is not None:
            whole, rest = self._sentence[: end.end()], self._sentence[end.end() :]
            words = _words(whole)
            if self._is_repeated(words, whole=True):
                self.repeats = True
                return "".join(shown)
            shown.append(whole[self._shown :])
            self._earlier += [words, *self._asked] if words else []
            self._asked = [] if words else self._asked
            # White space behind the end may have been passed on already.
            self._sentence, self._shown = rest, max(0, self._shown - len(whole))
            self._differs, self._searched = False, 0
        self._searched = max(0, len(self._sentence) - _BACK_CHARS)
        if not self._differs:
            words = _words(_without_last_word(self._sentence))
            if self._is_repeated(words, whole=False):
                self.repeats = True
                return "".join(shown)
            self._differs = not self._earlier or (
                bool(words) and not any(each[: len(words)] == words for each in self._earlier)
            )
        if self._differs:
            shown.append(self._sentence[self._shown :])
            self._shown = len(self._sentence)
        return "".join(shown)

    def flush(self) -> str:
        """What has been held back, if the text ends here without repeating itself."""
        if not self.repeats:
            self.repeats = self._is_repeated(_words(self._sentence), whole=True)
        return "" if self.repeats else self._sentence[self._shown :]

    def _is_repeated(self, words: list[str], *, whole: bool) -> bool:
        """Whether the words of a sentence so far, or of a whole one, have been said before."""
        if self._differs:
            return False
        if whole and len(words) >= _LEAST and words in self._earlier:
            return True
        return any(
            len(words) >= max(LEAST_ALIKE, SHARE_ALIKE * len(each))
            and each[: len(words)] == words[: len(each)]
            for each in self._earlier
        )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _without_last_word(text: str) -> str:
    """A text without its last word, which may go on; not without one that is endless."""
    tail = text[-_LONGEST_WORD:]
    kept = tail.rstrip(_JOINS)
    while kept and (kept[-1].isalnum() or kept[-1] in _JOINS):
        kept = kept[:-1]
    endless = not kept and len(text) > _LONGEST_WORD
    return text if endless else text[: len(text) - len(tail) + len(kept)]
