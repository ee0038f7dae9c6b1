"""Where in the sources a character of the stream, and so a token, came from."""

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass

from lmi_cli.sources.document import Block

_LINE_FEED = re.compile("\n")


@dataclass(frozen=True, slots=True)
class Place:
    """A character's place.

    Attributes:
        source: Index of its source.
        char: Offset in the extracted text of the source; None inside a header line.
        page: One-based page, for paged sources.
        label: The page's printed label, where it has one.
        line: One-based line, for sources counted in lines.
    """

    source: int
    char: int | None
    page: int | None
    label: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class _Entry:
    source: int
    char_start: int
    page: int | None
    label: str | None
    line: int | None
    header: bool


class Provenance:
    """A growing map from offsets in the stream to places in the sources."""

    def __init__(self) -> None:
        self.chars = 0
        self._starts = array("q")  # stream offset of each block
        self._entries: list[_Entry] = []
        self._line_feeds = array("q")  # stream offsets of the line feeds in sources with lines

    def add(self, block: Block) -> None:
        """Append a block to the stream."""
        self._starts.append(self.chars)
        self._entries.append(
            _Entry(
                block.source, block.char_start, block.page, block.label, block.line, block.header
            )
        )
        if block.line is not None:
            base = self.chars
            self._line_feeds.extend(base + m.start() for m in _LINE_FEED.finditer(block.text))
        self.chars += len(block.text)

    def locate(self, offset: int) -> Place:
        """The place of the character at ``offset`` in the stream.

        Raises:
            IndexError: The stream does not reach that far.
        """
        if not 0 <= offset < self.chars:
            raise IndexError(f"offset {offset} in a stream of {self.chars} characters")
        index = bisect_right(self._starts, offset) - 1
        start, entry = self._starts[index], self._entries[index]
        line = entry.line
        if line is not None:
            feeds = self._line_feeds
            line += bisect_right(feeds, offset - 1) - bisect_right(feeds, start - 1)
        char = None if entry.header else entry.char_start + offset - start
        return Place(entry.source, char, entry.page, entry.label, line)
