"""The encoder of one stream: the model's own tokenizer, and tiktoken once the stream is long.

tiktoken is used only where it gives the same tokens; :mod:`lmi_cli.text.bytelevel` says what is
proved when it is built. How it splits words is compared on texts of all kinds, on the beginning of
the stream, on samples of the rest, and on unbroken runs much longer than any before.
"""

from lmi_cli.text.bytelevel import ByteLevelBPE, UnsupportedTokenizerError
from lmi_cli.text.encoded import Encoded
from lmi_cli.text.samples import SAMPLES
from lmi_cli.text.tokenizer import Tokenizer

FAST_AFTER_CHARS = 500_000
"""Length from which building the faster encoder pays off; a page or a chapter never needs it."""

# A part of every so many pieces is compared: about one percent of the text, because comparing costs
# five times as much as encoding.
_SAMPLE_EVERY = 8
_SAMPLE_CHARS = 1_024
_AROUND_CHARS = 64


class StreamEncoder:
    """Encodes the pieces of one stream.

    Args:
        tokenizer: The model's own tokenizer.
        fast_after: Characters of the stream after which tiktoken takes over.

    Attributes:
        engine: ``tokenizers``, or ``tiktoken`` once it has taken over.
        notes: What a reader of the report should know, one sentence each.
    """

    def __init__(self, tokenizer: Tokenizer, *, fast_after: int = FAST_AFTER_CHARS) -> None:
        self.notes: list[str] = []
        self._tokenizer = tokenizer
        self._fast: ByteLevelBPE | None = None
        self._fast_after: int | None = fast_after  # None once this is decided
        self._chars = 0
        self._begin = ""
        self._pieces = 0
        self._longest_run = 0

    @property
    def engine(self) -> str:
        """Name of the library in use."""
        return "tokenizers" if self._fast is None else "tiktoken"

    def encode(self, text: str, *, continued: bool) -> Encoded:
        """Tokens of the next piece; see :meth:`Tokenizer.encode`."""
        self._begin = self._begin or text
        if self._fast_after is not None and continued and self._chars >= self._fast_after:
            self._fast_after = None
            self._fast = self._checked(text)
        self._chars += len(text)
        if self._fast is not None and not self._agrees_on_samples(text):
            self._fast = None
            self.notes.append(
                "tiktoken differed from the model's own tokenizer at about character "
                f"{self._chars:,}; it is not used from there on, and earlier token counts may be "
                "off by a few"
            )
        return self.encode_again(text, continued=continued)

    def encode_again(self, text: str, *, continued: bool = True) -> Encoded:
        """Tokens of part of a piece; its characters are not counted again."""
        encoded = self._fast.encode(text) if self._fast is not None and continued else None
        return encoded or self._tokenizer.encode(text, continued=continued)

    def _checked(self, text: str) -> ByteLevelBPE | None:
        try:
            fast = self._tokenizer.fast()
        except UnsupportedTokenizerError as error:
            self.notes.append(f"tokenised without tiktoken: {error}")
            return None
        if all(self._agree(fast, sample) for sample in (*SAMPLES, self._begin, text)):
            return fast
        self.notes.append("tokenised without tiktoken: it differs from the model's own tokenizer")
        return None

    def _agree(self, fast: ByteLevelBPE, text: str) -> bool:
        encoded = fast.encode(text)
        return encoded is None or encoded.same_as(self._tokenizer.encode(text, continued=True))

    def _agrees_on_samples(self, text: str) -> bool:
        """Compare a part of the piece, and any unbroken run much longer than those before."""
        if self._fast is None:
            return True
        self._pieces += 1
        samples = []
        if self._pieces % _SAMPLE_EVERY == 0:
            middle = len(text) // 2
            samples.append(text[middle : middle + _SAMPLE_CHARS])
        run = max(text.split(), key=len, default="")
        if len(run) > 2 * self._longest_run:
            self._longest_run = len(run)
            at = text.index(run)
            samples.append(text[max(0, at - _AROUND_CHARS) : at + len(run) + _AROUND_CHARS])
        return all(self._agree(self._fast, sample) for sample in samples)
