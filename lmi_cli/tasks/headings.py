"""The headings of a document, and those that a place in it stands under."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath

import numpy as np

from lmi_cli.sources.blocks import Bookmark, Source
from lmi_cli.tasks.document import Document
from lmi_cli.text.comments import SOURCE_SUFFIXES
from lmi_cli.text.definitions import definitions_around
from lmi_cli.text.parts import Heading, PageWords, headings


def headings_of(document: Document, sources: Sequence[Source]) -> list[Heading]:
    """The headings of all sources: those of their own outlines where they have any."""
    text, behind = document.text, document.provenance.behind_header
    begins = document.provenance.source_starts()
    ends = [begin for _, begin in begins[1:]] + [len(text)]
    found: list[Heading] = []
    for (source, begin), end in zip(begins, ends, strict=True):
        outline = sources[source].outline
        here = _outlined(document, outline, begin, end) or headings(text, begin, end)
        # With a heading at its very beginning, a section has the line that names the source.
        if here and not text[behind(begin, end) : here[0].offset].strip():
            here[0] = Heading(begin, here[0].title)
        found += here
    return found


class Sections:
    """What the places of a document stand under; it is looked for when it is first asked for.

    Args:
        document: The document.
        sources: Its sources.
    """

    def __init__(self, document: Document, sources: Sequence[Source]) -> None:
        self._document, self._sources = document, sources
        self._headings: list[Heading] | None = None

    def above(self, offset: int) -> list[str]:
        """The last heading before an offset in the text; in code, the definitions around it."""
        document = self._document
        begins = document.provenance.source_starts()
        source, begin = begins[bisect_right(begins, offset, key=lambda item: item[1]) - 1]
        if PurePath(self._sources[source].origin).suffix.lower() in SOURCE_SUFFIXES:
            return definitions_around(document.text, begin, offset)
        if self._headings is None:
            self._headings = headings_of(document, self._sources)
        number = bisect_right(self._headings, offset, key=lambda heading: heading.offset) - 1
        if number < 0 or self._headings[number].offset < begin:
            return []
        return [" ".join(self._headings[number].title.split())]


def _outlined(
    document: Document, outline: Sequence[Bookmark], begin: int, end: int
) -> list[Heading]:
    """The headings that a source's own outline names."""
    if not outline:
        return []
    pages = _pages(document, begin, end)
    read: dict[int, PageWords] = {}
    found = []
    for mark in outline:
        if mark.page in pages:
            if mark.page not in read:
                read[mark.page] = PageWords(document.text, *pages[mark.page])
            found.append(Heading(read[mark.page].find(mark.title), mark.title))
    return sorted(found, key=lambda heading: heading.offset)


def _pages(document: Document, begin: int, end: int) -> dict[int, tuple[int, int]]:
    """Offsets in the text of the pages of the source at ``begin`` to ``end``."""
    sections = document.provenance.sections()
    low, high = np.searchsorted(sections, [begin, end]).tolist()
    bounds = [*sections[low:high].tolist(), end]
    locate, behind = document.provenance.locate, document.provenance.behind_header
    found = {}
    for first, stop in pairwise(bounds):
        first = behind(first, stop)
        if first < stop and (page := locate(first).page) is not None:
            found[page] = (first, stop)
    return found
