"""The texts that are scored: tokens that know their source and their bytes, in pieces."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmi_cli.text.provenance import SourceCounter
from lmi_cli.text.stream import TokenBlock, TokenStream

PIECE_TOKENS = 4096
"""Tokens in a piece, which are also those of one step of the curve."""


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """Consecutive tokens of a text: ``PIECE_TOKENS`` of them, or fewer at the end of the text.

    Attributes:
        ids: int32, ``[tokens]``.
        sources: Number of the source of each token, int32; -1 for one of a line that names a file.
        utf8_bytes: UTF-8 bytes of the characters that end in each token, int32.
    """

    ids: NDArray[np.int32]
    sources: NDArray[np.int32]
    utf8_bytes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text that is scored from a fresh start.

    Attributes:
        pieces: Its tokens; a list if all of them are known beforehand, or else an iterator.
        source: The one source that it is the text of, as a number in the corpus; None if the text
            is the whole stream, whose tokens have the numbers themselves.
        tokens: How many there are; None if that is not known.
        digest: What tells it from other texts; empty if it is not known beforehand.
    """

    pieces: Iterable[TokenPiece]
    source: int | None = None
    tokens: int | None = None
    digest: str = ""

    @property
    def known(self) -> Sequence[TokenPiece]:
        """The pieces, of a text of which all are known beforehand."""
        return self.pieces if isinstance(self.pieces, list) else []

    def source_of(self, number: int) -> int:
        """The number in the corpus of the source that a token names; -1 for none."""
        return number if number < 0 or self.source is None else self.source


def known_text(pieces: Iterable[TokenPiece], source: int | None = None) -> ScoredText:
    """A text of which all pieces are taken now."""
    taken = list(pieces)
    digest = hashlib.sha256()
    for piece in taken:
        for part in (piece.ids, piece.sources, piece.utf8_bytes):
            digest.update(np.ascontiguousarray(part).tobytes())
    return ScoredText(taken, source, sum(map(len, taken)), digest.hexdigest()[:32])


def _by_source(stream: TokenStream, length: int | None, counts: list[int]) -> Iterator[ScoredText]:
    """Each source that has tokens; ``counts`` receives the number of tokens of every one."""
    for source, part in stream.by_source():
        counter = SourceCounter()
        text = known_text(pieces_of(part.blocks(counter), counter, length), source)
        counts.extend([0] * (source + 1 - len(counts)))
        counts[source] = text.tokens or 0
        if text.tokens:
            yield text


def pieces_of(
    blocks: Iterable[TokenBlock], counter: SourceCounter, length: int | None
) -> Iterator[TokenPiece]:
    """The first ``length`` tokens of a stream, or all; ``counter`` must receive its blocks."""
    held, taken = np.empty((3, 0), dtype=np.int32), 0
    for block in blocks:
        count = len(block.ids) if length is None else min(len(block.ids), length - taken)
        taken += count
        sources = counter.count(block.starts[:count])
        new = np.stack((block.ids[:count], sources, block.utf8_bytes()[:count]))
        held = np.concatenate((held, new), axis=1)
        while held.shape[1] >= PIECE_TOKENS:
            yield TokenPiece(*held[:, :PIECE_TOKENS])
            held = held[:, PIECE_TOKENS:]
        if taken == length:
            break
    if held.shape[1]:
        yield TokenPiece(*held)


class ScoredTexts:
    """What is scored: a stream as one text, or each of its sources.

    Args:
        stream: The stream.
        length: Tokens that are scored of the stream, or of each source; None for all.
        each: Whether each source is a text of its own.
        lazily: Whether the tokens of the stream are taken only as they are scored, which takes no
            memory for them.

    Attributes:
        texts: The texts.
        counts: Tokens by source, complete once all pieces have been taken.
        tokens: Tokens of all texts so far.
    """

    def __init__(
        self, stream: TokenStream, length: int | None, *, each: bool, lazily: bool
    ) -> None:
        self._stream, self._length = stream, length
        self.tokens = 0
        self.counts: list[int] = []
        if each:
            self.texts = list(_by_source(stream, length, self.counts))
            self.tokens = sum(self.counts)
            return
        counter = SourceCounter()
        self.counts = counter.tokens
        pieces = self._counted(pieces_of(stream.blocks(counter), counter, length))
        self.texts = [ScoredText(pieces) if lazily else known_text(pieces)]

    def _counted(self, pieces: Iterator[TokenPiece]) -> Iterator[TokenPiece]:
        for piece in pieces:
            self.tokens += len(piece)
            yield piece

    def expected(self, read: int) -> int | None:
        """Tokens of a stream that is being read, as far as that can be told."""
        share = self._stream.corpus.share
        if share is None or not share:
            return self._length
        estimate = max(read, round(self.tokens / share))
        return estimate if self._length is None else min(estimate, self._length)
