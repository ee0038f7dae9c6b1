"""Plain text of any size in bounded pieces, cut at line ends. Imports only this package."""

import unicodedata
from collections.abc import Iterable, Iterator

from lmi_cli.sources.blocks import BLOCK_CHARS, Piece, Source
from lmi_cli.sources.encoding import decoded
from lmi_cli.sources.input import Input

JOINERS = "\u200d\ufe0e\ufe0f"
# Longest sequence that is never cut: a reader would not see a longer one as one character.
CLUSTER_CHARS = 32


def read(data: Input, source: Source) -> Iterator[Piece]:
    """Read a text file in pieces; each ends at a line end, unless a line is longer than a piece."""
    line = 1
    for text in blocks(decoded(data.chunks(), source)):
        yield Piece(text, line=line)
        line += text.count("\n")
        source.lines = line - text.endswith("\n")


def blocks(texts: Iterable[str]) -> Iterator[str]:
    """Cut a stream of text into pieces of at most ``BLOCK_CHARS``, after line ends if possible."""
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
    """The last offset up to ``limit`` that splits neither a character from its marks nor CR LF."""
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
