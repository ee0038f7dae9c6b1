"""Turn a stream of text blocks into a stream of token blocks, in bounded memory."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmi_cli.sources.blocks import Block, Corpus, text_corpus
from lmi_cli.text.encoded import Encoded
from lmi_cli.text.encoder import StreamEncoder
from lmi_cli.text.tokenizer import Tokenizer

_PIECE_CHARS = 16_384
_LONGEST_PIECE_CHARS = 65_536
_MARGIN_CHARS = 256
"""Text after a cut that must have been read before the cut is made."""
_SEARCHED_CHARS = 2_048

# Where tokenizers usually end a word whatever follows: after a line feed, or before a single space
# between two characters that are not white space.
_LINE_END = re.compile(r"(?<=\S\n)(?=\S)")
_WORD_END = re.compile(r"(?<=\S)(?= \S)")


class BlockRecord(Protocol):
    """Receives every block; see :class:`lmi_cli.text.provenance.Provenance`."""

    def add(self, block: Block) -> None:
        """Append a block to the stream."""
        ...


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """Consecutive tokens of the stream.

    Attributes:
        ids: int32, ``[tokens]``.
        starts: Offset in the whole stream of the character in which each token begins, int64.
        text: The encoded text.
        offset: Offset of ``text[0]`` in the whole stream.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    text: str
    offset: int

    def utf8_bytes(self) -> NDArray[np.int32]:
        """UTF-8 bytes of the characters that end in each token, ``[tokens]``."""
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
        sizes[(codes >= 0xD800) & (codes < 0xE000)] = 1  # such a one is written as "?"
        before = np.concatenate(([0], np.cumsum(sizes)))[self.starts - self.offset]
        return np.diff(before, append=sizes.sum()).astype(np.int32)


def tokenize(
    blocks: Iterable[Block],
    tokenizer: Tokenizer,
    record: BlockRecord,
    encoder: StreamEncoder | None = None,
    *,
    offset: int = 0,
) -> Iterator[TokenBlock]:
    """Encode a stream of blocks piece by piece.

    The tokens are those of the whole text: a piece ends at the end of a token, where a tokenizer
    that starts afresh finds the same tokens as one that has encoded the text before.

    Args:
        blocks: The text.
        tokenizer: The model's own tokenizer.
        record: Receives every block.
        encoder: Encodes the pieces; by default a new one for ``tokenizer``.
        offset: Number of characters of the stream before the blocks.
    """
    encoder = encoder or StreamEncoder(tokenizer)
    pending = ""
    wanted = _PIECE_CHARS
    for block in blocks:
        record.add(block)
        pending += block.text
        while len(pending) > wanted:
            text = pending[:_LONGEST_PIECE_CHARS]
            must_end = len(text) == _LONGEST_PIECE_CHARS
            found = _first_piece(text, encoder, continued=offset > 0, must_end=must_end)
            if found is None:
                wanted = min(2 * len(text), _LONGEST_PIECE_CHARS)
                break
            encoded, cut = found
            yield TokenBlock(encoded.ids, encoded.starts + offset, text[:cut], offset)
            pending, offset, wanted = pending[cut:], offset + cut, _PIECE_CHARS
    if pending:
        encoded = encoder.encode(pending, continued=offset > 0)
        yield TokenBlock(encoded.ids, encoded.starts + offset, pending, offset)


class TokenStream:
    """A text as token blocks, with a record of where they came from.

    Args:
        corpus: The text.
        tokenizer: The model's own tokenizer.

    Attributes:
        corpus: The text; its sources are complete once all blocks have been taken.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self.corpus = corpus
        self._tokenizer = tokenizer
        self._encoder = StreamEncoder(tokenizer)

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know about the encoding, one sentence each."""
        return self._encoder.notes

    @property
    def engine(self) -> str:
        """Name of the library in use."""
        return self._encoder.engine

    def blocks(self, record: BlockRecord, *, offset: int = 0) -> Iterator[TokenBlock]:
        """The tokens, once and in order; for the arguments see :func:`tokenize`."""
        return tokenize(self.corpus.blocks, self._tokenizer, record, self._encoder, offset=offset)

    def by_source(self) -> Iterator[tuple[int, "TokenStream"]]:
        """The text of each source alone, as source 0, with its number in the corpus.

        The line that names a source is left out. A stream ends when the next one is asked for.
        """
        texts = (block for block in self.corpus.blocks if not block.header)
        for source, blocks in groupby(texts, key=lambda block: block.source):
            part = TokenStream(
                Corpus(replace(block, source=0) for block in blocks), self._tokenizer
            )
            part._encoder = self._encoder
            yield source, part


class EncodedStream(TokenStream):
    """A text that is already encoded.

    Args:
        encoded: The tokens.
        text: The text of these tokens.
        tokenizer: The model's own tokenizer.
    """

    def __init__(self, encoded: Encoded, text: str, tokenizer: Tokenizer) -> None:
        super().__init__(text_corpus(text), tokenizer)
        self._encoded = encoded
        self._text = text

    def blocks(self, record: BlockRecord, *, offset: int = 0) -> Iterator[TokenBlock]:
        """All tokens in one block."""
        for block in self.corpus.blocks:
            record.add(block)
        yield TokenBlock(self._encoded.ids, self._encoded.starts + offset, self._text, offset)


def _first_piece(
    text: str, encoder: StreamEncoder, *, continued: bool, must_end: bool
) -> tuple[Encoded, int] | None:
    """The tokens of the longest part of ``text`` that later text cannot change, and its length.

    None means that more text is needed; ``must_end`` forbids that.
    """
    encoded = encoder.encode(text, continued=continued)
    cut = len(text)
    for cut in _ends(text, encoded.starts):
        count = int(np.searchsorted(encoded.starts, cut))
        if encoder.encode_again(text[cut:]).same_as(encoded.after(count, cut)):
            return encoded.first(count), cut
    if not must_end:
        return None
    return encoded.first(int(np.searchsorted(encoded.starts, cut))), cut


def _ends(text: str, starts: NDArray[np.int64]) -> Iterator[int]:
    """Offsets at which the text may be cut, the likeliest first."""
    last = len(text) - _MARGIN_CHARS
    first = max(1, last - _SEARCHED_CHARS)
    for pattern in (_LINE_END, _WORD_END):
        found = [match.start() for match in pattern.finditer(text, first, last)]
        yield from reversed(found[-2:])
    inside = starts[np.searchsorted(starts, first) : np.searchsorted(starts, last)]
    yield from reversed(np.unique(inside)[-4:].tolist())
