"""The text of an answer, while its tokens are generated."""

from lmi_cli.text.repeats import RepeatGuard
from lmi_cli.text.tokenizer import IncrementalDecoder, Tokenizer


class AnswerText:
    """Turns tokens into text, without white space in front, and ends it before it repeats itself.

    Args:
        tokenizer: The model's.
        question: What is answered; an answer that asks it again repeats itself too.
        verbatim: Keep the text as the model writes it.

    Attributes:
        text: What has been returned so far.
        tokens: Number of tokens taken.
    """

    def __init__(self, tokenizer: Tokenizer, question: str, *, verbatim: bool = False) -> None:
        self.text = ""
        self.tokens = 0
        self._decoder = IncrementalDecoder(tokenizer)
        self._verbatim = verbatim
        self._guard = RepeatGuard(question)
        self._new = ""

    @property
    def repeats(self) -> bool:
        """Whether the text has begun to repeat itself."""
        return self._guard.repeats

    def push(self, token: int) -> bool:
        """Take a token; return whether the text repeats itself."""
        self.tokens += 1
        if self._verbatim:
            self._new += self._decoder.push(token)
            return False
        self._new += self._guard.push(self._decoder.push(token))
        return self._guard.repeats

    def take(self, *, final: bool) -> str:
        """The text that is new since the last call; with ``final``, all that is left."""
        if final and self._verbatim:
            self._new += self._decoder.flush()
        elif final:
            self._new += self._guard.push(self._decoder.flush()) + self._guard.flush()
        new, self._new = self._new, ""
        new = new if self.text or self._verbatim else new.lstrip()
        self.text += new
        return new
