"""A stream of text blocks as a stream of token blocks, in bounded memory."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmi_cli.sources.document import Block
from lmi_cli.text.provenance import Provenance
from lmi_cli.text.tokenizer import Tokenizer

_PIECE_CHARS = 16_384
_LONGEST_PIECE_CHARS = 262_144

# A piece may end after a line feed or before a space that stands alone between two characters that
# are not white space: pre-tokenizers end a word there whatever follows.
_LINE_END = re.compile(r"(?<=\S\n)(?=\S)")
_WORD_END = re.compile(r"(?<=\S)(?= \S)")


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """Consecutive tokens of the stream.

    Attributes:
        ids: int32, ``[tokens]``.
        starts: Offset in the whole stream of the character in which each token begins, int64.
        text: What was encoded.
        offset: Offset of ``text[0]`` in the whole stream.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    text: str
    offset: int

    def utf8_bytes(self, first: int, stop: int) -> int:
        """UTF-8 bytes of the characters that begin in tokens ``first <= t < stop``."""
        if first >= min(stop, len(self.ids)):
            return 0
        end = int(self.starts[stop]) - self.offset if stop < len(self.ids) else len(self.text)
        return len(
            self.text[int(self.starts[first]) - self.offset : end].encode("utf-8", "replace")
        )


def tokenize(
    blocks: Iterable[Block], tokenizer: Tokenizer, provenance: Provenance
) -> Iterator[TokenBlock]:
    """Encode a stream of blocks piece by piece; ``provenance`` learns of every block.

    The pieces are cut where a tokenizer cuts anyway, so the tokens are those of the whole text.
    """
    pending = ""
    offset = 0  # of pending[0] in the stream
    for block in blocks:
        provenance.add(block)
        pending += block.text
        while len(pending) > _PIECE_CHARS:
            cut = _safe_cut(pending)
            if cut is None:
                break
            yield _encode(tokenizer, pending[:cut], offset)
            pending, offset = pending[cut:], offset + cut
    if pending:
        yield _encode(tokenizer, pending, offset)


def _encode(tokenizer: Tokenizer, text: str, offset: int) -> TokenBlock:
    encoded = tokenizer.encode(text, continued=offset > 0)
    return TokenBlock(encoded.ids, encoded.starts + offset, text, offset)


def _safe_cut(text: str) -> int | None:
    """Where to end a piece; None asks for more text."""
    window = text[:_LONGEST_PIECE_CHARS]
    for pattern in (_LINE_END, _WORD_END):
        found = _last_match(pattern, window)
        if found is not None:
            return found
    return _LONGEST_PIECE_CHARS if len(text) > _LONGEST_PIECE_CHARS else None


def _last_match(pattern: re.Pattern[str], text: str) -> int | None:
    last = None
    # Only the end of a piece is of interest: look at it in growing pieces from behind.
    size = 1024
    while last is None and size < 2 * len(text):
        for match in pattern.finditer(text, max(1, len(text) - size)):
            last = match.start()
        size *= 4
    return last
