"""Notice in time that a text which is being written begins to repeat itself."""

import re
from collections import deque

# White space behind a sentence belongs to the next one.
_END = re.compile(r"[.!?](?=\s)|[。！？]|(?<=\S)(?=\s*\n[ \t]*\n)")
# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words.
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)+(?:[.'’-](?:(?!{_UNSPACED})\w)+)*")
_LAST_WORD = re.compile(rf"(?:(?!{_UNSPACED})[\w.'’-])+\Z")

LEAST_ALIKE = 6
SHARE_ALIKE = 0.8
"""A sentence that begins with so many words of an earlier one, and with such a share of them, says
the same again."""

_LEAST = 3
"""A whole sentence with at least so many words must not be said twice."""
_LONGEST_WORD = 100
_BACK_CHARS = 80
"""An end is looked for so far back, since white space behind it may come later."""
_LONGEST_PHRASE = 16
"""Of as many words, at most, that are looked for again right behind themselves."""
_CIRCLE_WORDS = 9
"""Words in which phrases come again, at least, before a text that does nothing else is ended."""


class RepeatGuard:
    """Passes text on until a sentence says again what an earlier one has said, or words circle.

    While the words of a sentence are those of an earlier one, its text is held back; so nothing
    that repeats has been passed on when the repetition is noticed. A phrase that comes again and
    again behind itself is passed on twice at most.

    Args:
        asked: A question; behind the first sentence, it counts as said as well.
    """

    def __init__(self, asked: str = "") -> None:
        self._said_again = False
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
        self._circles = _Circles()

    @property
    def repeats(self) -> bool:
        """Whether a repetition has been noticed; from then on nothing is passed on."""
        return self._said_again or self._circles.found

    def push(self, text: str) -> str:
        """Take the next piece of text and return what can be shown by now."""
        if self.repeats:
            return ""
        new = self._circles.push(self._unsaid(text))
        return new + self._circles.flush() if self._said_again else new

    def flush(self) -> str:
        """What has been held back, if the text ends here without repeating itself."""
        if self.repeats:
            return ""
        self._said_again = self._is_repeated(_words(self._sentence), whole=True)
        rest = "" if self._said_again else self._sentence[self._shown :]
        return self._circles.push(rest) + self._circles.flush()

    def _unsaid(self, text: str) -> str:
        """Take a piece of text; return what is in no sentence that may have been said before."""
        self._sentence += text
        shown: list[str] = []
        while (end := _END.search(self._sentence, self._searched)) is not None:
            whole, rest = self._sentence[: end.end()], self._sentence[end.end() :]
            words = _words(whole)
            if self._is_repeated(words, whole=True):
                self._said_again = True
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
                self._said_again = True
                return "".join(shown)
            self._differs = not self._earlier or (
                bool(words) and not any(each[: len(words)] == words for each in self._earlier)
            )
        if self._differs:
            shown.append(self._sentence[self._shown :])
            self._shown = len(self._sentence)
        return "".join(shown)

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


class _Circles:
    """Passes text on until the same few words come again and again.

    Attributes:
        found: Whether they do; from then on nothing is passed on.
    """

    def __init__(self) -> None:
        self.found = False
        self._text = ""
        """What has not been passed on, or whose last word may go on."""
        self._shown = self._counted = 0
        """Characters of it that have been passed on, and in which words have been counted."""
        self._words: deque[str] = deque(maxlen=_LONGEST_PHRASE + 1)
        self._again = [0] * (_LONGEST_PHRASE + 1)
        """How many of the last words equal the word so many words before them."""
        self._circling = False

    def push(self, text: str) -> str:
        """Take the next piece of text and return what can be shown by now."""
        self._text += text
        finished = len(_without_last_word(self._text))
        until = self._shown
        for word in _WORD.finditer(self._text, self._counted, finished):
            until = until if self._circling else word.end()
            self._count(word[0].lower())
        self._counted = max(self._counted, finished)
        return self._pass_on(until if self._circling else len(self._text))

    def flush(self) -> str:
        """What has been held back, if the text ends here."""
        return "" if self.found else self._pass_on(len(self._text))

    def _pass_on(self, until: int) -> str:
        new = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        done = min(self._shown, self._counted)
        self._text = self._text[done:]
        self._shown, self._counted = self._shown - done, self._counted - done
        return new

    def _count(self, word: str) -> None:
        self._words.append(word)
        for size in range(1, min(_LONGEST_PHRASE + 1, len(self._words))):
            same = self._words[-1 - size] == word
            self._again[size] = self._again[size] + 1 if same else 0
            self.found = self.found or self._again[size] >= max(_CIRCLE_WORDS, 2 * size)
        self._circling = self.found or any(
            self._again[size] >= size for size in range(1, _LONGEST_PHRASE + 1)
        )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _without_last_word(text: str) -> str:
    """A text without its last word, which may go on; not without one that is endless."""
    tail = text[-_LONGEST_WORD:]
    last = _LAST_WORD.search(tail)
    kept = len(tail) if last is None else last.start()
    endless = not kept and len(text) > _LONGEST_WORD
    return text if endless else text[: len(text) - len(tail) + kept]
