"""Decode bytes of any encoding, piece by piece, counting what cannot be decoded.

Imports the standard library and, only for bytes that are not UTF-8, charset-normalizer.

The encoding is given by the byte order mark; without one, it is UTF-8. If the first bytes beyond
ASCII are not UTF-8, it is the encoding that the document declares, or one guessed from a bounded
sample. Undecodable bytes become U+FFFD. A NUL ends the text.
"""

import codecs
from collections.abc import Iterable, Iterator

from lmi_cli.sources.blocks import Source
from lmi_cli.sources.sniff import byte_order_mark

REPLACEMENT = "\ufffd"
SAMPLE_BYTES = 65536
SMALLEST_SAMPLE_BYTES = 4096
# The non-ASCII characters of Western languages in Windows-1252. Text in another one-byte encoding,
# read as Windows-1252, shows other letters, or these signs in the middle of words.
WESTERN_LETTERS = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüßœÿÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ")
WESTERN_SIGNS = frozenset("‘’“”„‚«»‹›–—…•·§°±²³¹ºª¼½¾¿¡€£¥¢©®™†‡‰×÷µ¶´¨¯\xa0\xad")  # noqa: RUF001
WESTERN_SHARE = 0.4


class TextDecoder:
    """Decodes bytes to whole characters and counts what had to be replaced.

    Args:
        declared: The encoding that the document declares; used if its bytes are not UTF-8.

    Attributes:
        encoding: The encoding in use; final only at the end.
        detected: Whether the encoding was guessed from a sample.
        replaced: Number of undecodable sequences replaced by U+FFFD.
    """

    def __init__(self, declared: str | None = None) -> None:
        self._declared = declared if declared and extends_ascii(declared) else None
        self.encoding = "utf-8"
        self.detected = False
        self.replaced = 0
        self._pending = b""
        self._started = False
        self._only_ascii = True
        self._other: codecs.IncrementalDecoder | None = None

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """Decode the next bytes; an unfinished character waits for the next call."""
        data = self._pending + data
        self._pending = b""
        if not self._started:
            if not final and len(data) < 4:
                self._pending = data
                return ""
            self._started = True
            if mark := byte_order_mark(data):
                data = data[len(mark[0]) :]
                if mark[1] != "utf-8":
                    self._use(mark[1])
        if self._other is not None:
            return self._decode_other(data, final)
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            self._only_ascii = self._only_ascii and data[: error.start].isascii()
            if self._only_ascii:
                sample = data[max(0, error.start - SAMPLE_BYTES // 2) :]
                if not final and len(data) - error.start < SMALLEST_SAMPLE_BYTES:
                    self._pending = data[error.start :]
                    return data[: error.start].decode("ascii")
                if encoding := self._declared or detect(sample):
                    self.detected = encoding != self._declared
                    self._use(encoding)
                    return self._decode_other(data, final)
                self._only_ascii = False
            text, used = codecs.utf_8_decode(data, "replace", final)
            genuine = data[:used].count(REPLACEMENT.encode())
            self.replaced += text.count(REPLACEMENT) - genuine
        self._pending = data[used:]
        self._only_ascii = self._only_ascii and text.isascii()
        return text

    def _use(self, encoding: str) -> None:
        self.encoding = encoding
        self._other = codecs.getincrementaldecoder(encoding)("replace")

    def _decode_other(self, data: bytes, final: bool) -> str:
        if self._other is None:
            return ""
        text = self._other.decode(data, final)
        self.replaced += text.count(REPLACEMENT)
        return text

    def issues(self) -> list[str]:
        """What a reader of the report should know about the decoding."""
        found = []
        if self.detected:
            found.append(f"not UTF-8: read as {self.encoding}, guessed from its bytes")
        if self.replaced:
            found.append(f"{self.replaced:,} undecodable characters replaced by U+FFFD")
        return found


def detect(sample: bytes) -> str | None:
    """Guess the one-byte or multi-byte encoding of bytes that are not UTF-8; None when unsure."""
    sample = sample[:SAMPLE_BYTES]
    if is_western(sample):
        return "cp1252"
    # Imported here because most files never need it.
    from charset_normalizer import from_bytes

    best = from_bytes(sample, threshold=0.15).best()
    if best is None or best.encoding.startswith("utf") or not extends_ascii(best.encoding):
        return None
    return best.encoding


def is_western(sample: bytes) -> bool:
    """Whether bytes, read as Windows-1252 (and so Latin-1), are text in a Western language.

    Checked first, because detectors confuse it with similar encodings in a short sample.
    """
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    letters = foreign = 0
    for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False):
        letters += char.isalpha()
        if char.isascii():
            continue
        if char in WESTERN_LETTERS:
            foreign += 1
        elif char not in WESTERN_SIGNS or (
            char not in "’—–…·\xad" and before.isalpha() and after.isalpha()  # noqa: RUF001
        ):
            return False
    return foreign <= max(2, WESTERN_SHARE * letters)


def extends_ascii(encoding: str) -> bool:
    """Whether an encoding exists and reads ASCII as ASCII."""
    printable = bytes(range(32, 127))
    try:
        return printable.decode(encoding) == printable.decode("ascii")
    except (LookupError, UnicodeError):
        return False


def decoded(chunks: Iterable[bytes], source: Source, declared: str | None = None) -> Iterator[str]:
    """Decode a stream of bytes up to its end or its first NUL; issues are added to ``source``."""
    decoder = TextDecoder(declared)
    chars = 0
    for chunk in chunks:
        text = decoder.decode(chunk)
        if (nul := text.find("\0")) >= 0:
            yield text[:nul]
            source.issues.append(
                f"binary data from character {chars + nul:,} on (NUL): the rest was not read"
            )
            break
        chars += len(text)
        yield text
    else:
        yield decoder.decode(b"", final=True)
    source.issues += decoder.issues()
