"""Where in the sources each character of the stream, and so each token, comes from."""

import re
from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmi_cli.sources.blocks import Block

_LINE_FEED = re.compile("\n")
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a character.

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


class SourceCounter:
    """Counts tokens by source, for a stream whose places are not needed later.

    Attributes:
        tokens: Number of tokens of each source, without headers.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._chars = 0
        self._ahead: deque[tuple[int, int, bool]] = deque()  # end, source, header

    def add(self, block: Block) -> None:
        """Append a block to the stream."""
        self._chars += len(block.text)
        self._ahead.append((self._chars, block.source, block.header))
        if block.source >= len(self.tokens):
            self.tokens.extend([0] * (block.source + 1 - len(self.tokens)))

    def count(self, starts: NDArray[np.int64]) -> NDArray[np.int32]:
        """Count the next tokens of the stream, which begin at ``starts`` (ascending).

        Returns:
            The source of each token, ``[tokens]``; -1 for one of a header.
        """
        found = np.full(len(starts), -1, dtype=np.int32)
        done = 0
        while done < len(starts):
            end, source, header = self._ahead[0]
            stop = int(np.searchsorted(starts, end))
            if not header:
                self.tokens[source] += stop - done
                found[done:stop] = source
            if stop < len(starts):
                self._ahead.popleft()
            done = stop
        return found


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

    def dump(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """All that :meth:`restored` needs: a row for each block, the line feeds, the labels.

        The columns are start, source, character offset, page and line (each plus one; 0 for none),
        header, and the number of the label (plus one).
        """
        labels: dict[str, int] = {}
        rows = [
            (
                start,
                entry.source,
                entry.char_start,
                0 if entry.page is None else entry.page + 1,
                0 if entry.line is None else entry.line + 1,
                int(entry.header),
                0 if entry.label is None else labels.setdefault(entry.label, len(labels)) + 1,
            )
            for start, entry in zip(self._starts, self._entries, strict=True)
        ]
        table = np.array(rows, dtype=np.int64).reshape(-1, 7)
        return table, np.array(self._line_feeds, dtype=np.int64), list(labels)

    @classmethod
    def restored(
        cls,
        table: NDArray[np.int64],
        feeds: NDArray[np.int64],
        labels: list[str],
        chars: int,
        sources: int,
    ) -> "Provenance":
        """Restore the map that :meth:`dump` was called on.

        Args:
            table: A row for each block.
            feeds: Offsets of line feeds.
            labels: Page labels.
            chars: Length of the stream.
            sources: Number of sources.

        Raises:
            TypeError: A label is not a string.
            ValueError: An offset, a source or a label does not exist, or offsets are not in order.
        """
        if not (table.dtype == feeds.dtype == np.int64 and table.shape[1:] == (7,)):
            raise ValueError("its blocks are of another type")
        if not all(isinstance(label, str) for label in labels):
            raise TypeError("a page label is not a string")
        for offsets in (table[:, 0], feeds):
            if (np.diff(offsets) < 0).any() or (offsets < 0).any() or (offsets > chars).any():
                raise ValueError("its blocks or lines are not those of its text")
        if chars and not (len(table) and table[0, 0] == 0):
            raise ValueError("its text does not begin with a block")
        most = (chars, sources - 1, _LARGEST, _LARGEST, _LARGEST, 1, len(labels))
        if (table < 0).any() or (table > most).any():
            raise ValueError("one of its blocks is of no source, or has no such place")
        found = cls()
        found.chars = chars
        found._line_feeds.extend(feeds.tolist())
        for start, source, char_start, page, line, header, label in table.tolist():
            found._starts.append(start)
            found._entries.append(
                _Entry(
                    source,
                    char_start,
                    page - 1 if page else None,
                    labels[label - 1] if label else None,
                    line - 1 if line else None,
                    bool(header),
                )
            )
        return found

    def count_by_source(self, offsets: NDArray[np.int64], counts: list[int]) -> None:
        """Add to ``counts``, by source, how many of ``offsets`` (ascending) lie in its text.

        Offsets in header lines count for no source. ``counts`` grows as needed.
        """
        index = bisect_right(self._starts, int(offsets[0])) - 1 if len(offsets) else 0
        done = 0
        while done < len(offsets):
            entry = self._entries[index]
            if index + 1 < len(self._starts):
                end = int(np.searchsorted(offsets, self._starts[index + 1]))
            else:
                end = len(offsets)
            counts.extend([0] * (entry.source + 1 - len(counts)))
            if not entry.header:
                counts[entry.source] += end - done
            done, index = end, index + 1

    def sections(self) -> NDArray[np.int64]:
        """Offsets in the stream at which another source or another page begins, the first one 0.

        The line that names a source belongs to the section that it opens.
        """
        found, before = [0], None
        for start, entry in zip(self._starts, self._entries, strict=True):
            here = (entry.source, None if entry.header else entry.page)
            opened = before is not None and before == (entry.source, None) and here != before
            if before is not None and here != before and not opened:
                found.append(start)
            before = here
        return np.array(found, dtype=np.int64)

    def source_starts(self) -> list[tuple[int, int]]:
        """Each source and the offset in the stream at which it begins, with the line naming it."""
        found: dict[int, int] = {}
        for start, entry in zip(self._starts, self._entries, strict=True):
            found.setdefault(entry.source, start)
        return list(found.items())

    def behind_header(self, offset: int, end: int) -> int:
        """The first offset at or after ``offset`` that lies in no header; ``end`` at most."""
        index = bisect_right(self._starts, offset) - 1
        while index < len(self._entries) and self._entries[index].header and offset < end:
            index += 1
            offset = self._starts[index] if index < len(self._starts) else end
        return min(offset, end)

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
