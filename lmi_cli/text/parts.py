"""Cut a document into parts at its own borders: sources, headings, then paragraphs.

Imports numpy and this package.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from lmi_cli.text.passages import cut

_HEADING = re.compile(
    r"^(?:"
    r"#{1,6}[ \t]{1,8}\S.{0,100}"
    r"|(?:CHAPTER|Chapter|VOLUME|Volume|PART|Part|BOOK|Book|APPENDIX|Appendix)[ \t]{1,8}"
    r"(?:[IVXLC]{1,8}|\d{1,3}|[A-Z]|[A-Z][a-z]{2,10})(?:[.:]?|[.:]?[ \t]{1,8}[^\W\d_a-z].{1,80})"
    r"|\d{1,2}(?:\.\d{1,2}){0,3}\.?[ \t]{1,8}[^\W\d_a-z][^.\n]{2,70}"
    r")$",
    re.M,
)
_PAGE_NUMBER = re.compile(r"[ \t]{1,8}\d{1,4}$")
_LEADERS = re.compile(r"(?:\. ?){3}")
_WORDS = re.compile(r"\S+")
_LONGEST_NUMBER = 12
_SEARCHED_CHARS = 20_000
_SMALLEST_SHARE = 16
"""What is smaller than this part of the target size joins what follows, such as a title page."""
_LIST_LINES = 3
"""Headings on lines that follow each other so many times are a table of contents."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A line that opens a section: its offset in the text, and its words."""

    offset: int
    title: str


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens ``first`` to ``stop`` (exclusive) of a document.

    Attributes:
        number: Counted from zero.
        first: First token.
        stop: Token behind the last.
        titles: Of the sections that begin in it; if none does, of the one that goes on.
        continues: Whether it goes on with the section of the part before it, and nothing else.
    """

    number: int
    first: int
    stop: int
    titles: tuple[str, ...] = ()
    continues: bool = False

    def __len__(self) -> int:
        return self.stop - self.first


def headings(text: str, begin: int = 0, end: int | None = None) -> list[Heading]:
    """Lines of ``text[begin:end]`` that look like headings, apart from tables of contents."""
    end = len(text) if end is None else end
    found: list[Heading] = []
    for match in _HEADING.finditer(text, begin, end):
        title = _PAGE_NUMBER.sub("", match[0].lstrip("#").strip())
        # A page repeats the title of its chapter, and a table of contents has dots.
        if not _LEADERS.search(title) and title not in (each.title for each in found[-3:]):
            found.append(Heading(match.start(), title))
    kept: list[Heading] = []
    run: list[Heading] = []
    for heading in found:
        if run and text[run[-1].offset : heading.offset].count("\n") > 1:
            kept += run if len(run) < _LIST_LINES else []
            run = []
        run.append(heading)
    return kept + (run if len(run) < _LIST_LINES else [])


class PageWords:
    """The words of a page, in which titles are looked for however they are spaced there."""

    def __init__(self, text: str, begin: int, end: int) -> None:
        self._text, self._begin = text, begin
        stop = min(end, begin + _SEARCHED_CHARS)
        spans = [match.span() for match in _WORDS.finditer(text, begin, stop)]
        self._joined = " ".join(text[first:last] for first, last in spans)
        self._places = [first for first, _ in spans]
        lengths = [last - first + 1 for first, last in spans]
        self._offsets = [0, *accumulate(lengths)]

    def find(self, title: str) -> int:
        """The offset in the text of a title, with its number; else where the page begins."""
        wanted, at = " ".join(title.split()), -1
        while wanted and (at := self._joined.find(wanted, at + 1)) >= 0:
            around = self._joined[max(0, at - 1) : at], self._joined[at + len(wanted) :][:1]
            if not any(char.isalnum() for char in around):
                word = bisect_right(self._offsets, at) - 1
                place = self._places[word] + at - self._offsets[word]
                # The number of a section stands before its title, on the same line.
                line = max(self._begin, self._text.rfind("\n", self._begin, place) + 1)
                return line if place - line <= _LONGEST_NUMBER else place
        return self._begin


def parts_of(
    text: str,
    starts: NDArray[np.int64],
    sources: Iterable[int],
    titled: Sequence[Heading],
    most_tokens: int,
) -> list[Part]:
    """Cut a document into parts of about ``most_tokens`` tokens, and less than twice that.

    Sections longer than that are cut evenly at paragraphs; neighbouring sections of one source that
    fit together make one part.

    Args:
        text: The whole text.
        starts: Offset in the text at which each token begins, ascending.
        sources: Offsets at which sources begin, ascending.
        titled: The headings, ascending.
        most_tokens: Target size, in tokens.
    """
    if not len(starts):
        return []
    fixed = _tokens_at(starts, np.array([0, *sources], dtype=np.int64))
    opened = np.array([heading.offset for heading in titled], dtype=np.int64)
    borders = np.union1d(fixed, _tokens_at(starts, opened)).astype(np.int64)
    bounds = cut(text, starts, borders[borders < len(starts)], most_tokens).tolist()
    of_sources = set(fixed.tolist())
    merged = [bounds[0]]
    for bound, following in pairwise(bounds[1:]):
        too_large = following - merged[-1] > most_tokens
        too_small = bound - merged[-1] < most_tokens // _SMALLEST_SHARE
        if bound in of_sources or (too_large and not too_small):
            merged.append(bound)
    merged.append(len(starts))
    found: list[Part] = []
    for number, (first, stop) in enumerate(pairwise(merged)):
        begin, end = int(starts[first]), int(starts[stop]) if stop < len(starts) else len(text)
        low, high = np.searchsorted(opened, [begin, end]).tolist()
        new_source = first in of_sources
        inside = titled[low:high]
        # A section that began before this source does not go on in it.
        before = [] if new_source else [found[-1].titles[-1]] if found[-1].titles else []
        titles = tuple(heading.title for heading in inside) or tuple(before)
        found.append(Part(number, first, stop, titles, not inside and not new_source))
    return found


def _tokens_at(starts: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tokens in which the characters at some offsets lie, or that begin there."""
    tokens = np.searchsorted(starts, offsets)
    begins = starts[np.minimum(tokens, len(starts) - 1)] == offsets
    return np.maximum(0, np.where(begins, tokens, tokens - 1))
