"""The text of an answer, while its tokens are generated."""

from lmi_cli.text.repeats import RepeatGuard
from lmi_cli.text.tokenizer import IncrementalDecoder, Tokenizer


class AnswerText:
    """Turns tokens into text, without white space in front, and ends it before it repeats itself.

    Args:
        tokenizer: The model's.
        question: What is answered; an answer that asks it again repeats itself too.

    Attributes:
        text: What has been returned so far.
        tokens: Number of tokens taken.
    """

    def __init__(self, tokenizer: Tokenizer, question: str) -> None:
        self.text = ""
        self.tokens = 0
        self._decoder = IncrementalDecoder(tokenizer)
        self._guard = RepeatGuard(question)
        self._new = ""

    @property
    def repeats(self) -> bool:
        """Whether the text has begun to repeat itself."""
        return self._guard.repeats

    def push(self, token: int) -> bool:
        """Take a token; return whether the text repeats itself."""
        self.tokens += 1
        self._new += self._guard.push(self._decoder.push(token))
        return self._guard.repeats

    def take(self, *, final: bool) -> str:
        """The text that is new since the last call; with ``final``, all that is left."""
        if final:
            self._new += self._guard.push(self._decoder.flush()) + self._guard.flush()
        new, self._new = self._new, ""
        new = new if self.text else new.lstrip()
        self.text += new
        return new


class VerbatimText(AnswerText):
    """Keeps the text as the model writes it, repetitions and white space included."""

    def push(self, token: int) -> bool:
        """Take a token; the text is never ended."""
        self.tokens += 1
        self._new += self._decoder.push(token)
        return False

    def take(self, *, final: bool) -> str:
        """The text that is new since the last call; with ``final``, all that is left."""
        new, self._new = self._new + (self._decoder.flush() if final else ""), ""
        self.text += new
        return new


class FirstLineText(VerbatimText):
    """The same, ended behind the first line that is not empty."""

    def push(self, token: int) -> bool:
        """Take a token; return whether a line is complete."""
        super().push(token)
        return "\n" in (self.text + self._new).lstrip("\n")
