"""Plain text of any size and encoding, in bounded pieces cut at line ends.

Imports the standard library and, only for bytes that are not UTF-8, charset-normalizer.

The encoding is that of the byte order mark, else UTF-8; at the first bytes that are not UTF-8, if
all before them was ASCII, a bounded sample from there decides. What cannot be decoded becomes
U+FFFD and is counted. A NUL ends the text.
"""

import codecs
import unicodedata
from collections.abc import Iterable, Iterator

from lmi_cli.sources.document import Source
from lmi_cli.sources.input import Input
from lmi_cli.sources.piece import BLOCK_CHARS, Piece
from lmi_cli.sources.sniff import byte_order_mark

REPLACEMENT = "\ufffd"
SAMPLE_BYTES = 65536
JOINERS = "\u200d\ufe0e\ufe0f"
# Never cut between these: a longer cluster is not one that a reader would see as one character.
CLUSTER_CHARS = 32


class Decoder:
    """Bytes to text, whole characters only, counting what had to be replaced.

    Attributes:
        encoding: The encoding in use, known for sure at the end.
        detected: Whether the encoding was guessed from a sample.
        replaced: Number of U+FFFD put in the place of undecodable bytes.
    """

    def __init__(self) -> None:
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
            if self._only_ascii and (encoding := detect(data[error.start :])):
                self.detected = True
                self._use(encoding)
                return self._decode_other(data, final)
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
    # Imported here because most files never need it.
    from charset_normalizer import from_bytes

    best = from_bytes(sample[:SAMPLE_BYTES], threshold=0.15).best()
    if best is None or best.encoding.startswith(("utf", "ascii")):
        return None
    return best.encoding


def decoded(chunks: Iterable[bytes], source: Source) -> Iterator[str]:
    """Decode a stream of bytes up to its end or its first NUL; the issues go to ``source``."""
    decoder = Decoder()
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


def read(data: Input, source: Source) -> Iterator[Piece]:
    """Read a text file in pieces; each but the longest lines ends at a line end."""
    line = 1
    for text in blocks(decoded(data.chunks(), source)):
        yield Piece(text, line=line)
        line += text.count("\n")
        source.lines = line - text.endswith("\n")


def blocks(texts: Iterable[str]) -> Iterator[str]:
    """Cut a stream of text into pieces of at most ``BLOCK_CHARS``, after a line end if there is one."""
    kept = ""
    for text in texts:
        kept += text
        while len(kept) >= BLOCK_CHARS:
            cut = kept.rfind("\n", 0, BLOCK_CHARS) + 1 or safe_cut(kept, BLOCK_CHARS)
            yield kept[:cut]
            kept = kept[cut:]
    if kept:
        yield kept


def safe_cut(text: str, limit: int) -> int:
    """The largest place up to ``limit`` that does not part a character from its marks, or CR from LF."""
    for cut in range(min(limit, len(text) - 1), max(limit - CLUSTER_CHARS, 0), -1):
        after, before = text[cut], text[cut - 1]
        if not (
            unicodedata.combining(after)
            or after in JOINERS
            or before == "\u200d"
            or (before == "\r" and after == "\n")
        ):
            return cut
    return limit
