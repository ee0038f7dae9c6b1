"""Evidence: the best passages with their places in the sources, and the sentences that matter."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmi_cli.sources.blocks import Source
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.finder import Finder, Ranked
from lmi_cli.tasks.headings import Sections
from lmi_cli.tasks.report import Evidence, Quote
from lmi_cli.text.sentences import behind_headings, sentences

LISTED = 5
"""Number of passages that are listed with an answer."""

_QUOTES = 2
_SEEN_TOKENS = 3
"""Tokens of a sentence, those looked at most, by which it counts."""
_AROUND_CHARS = 500
_MARKED = 1.5
"""Standard deviations above the mean of its passage from which on a word is set off."""
_WORD = re.compile(r"\w[\w.'-]*")


def evidence_of(
    document: Document,
    sources: Sequence[Source],
    ranked: Sequence[Ranked],
    finder: Finder | None,
    count: int = LISTED,
    around: int = 0,
    sections: Sections | None = None,
    *,
    distinct: bool = True,
) -> list[Evidence]:
    """The best passages with their places in the sources.

    Args:
        document: The document.
        sources: Its sources.
        ranked: Its passages, ranked by ``finder``, which was asked nothing since.
        finder: Chooses the sentences that are quoted.
        count: How many at most.
        around: Passages on either side that belong to the text of each.
        sections: Say what each stands under.
        distinct: Of each page, take only the best passage.
    """
    borders = document.borders.tolist()
    found: list[Evidence] = []
    pages: set[tuple[int, int]] = set()
    for item in ranked:
        if len(found) == count:
            break
        passage = _with_neighbours(item.passage, borders, around) if around else item.passage
        begin, end = document.span(passage)
        first = document.provenance.locate(begin)
        if distinct and first.page is not None:
            if (first.source, first.page) in pages:
                continue
            pages.add((first.source, first.page))
        quotes = [] if finder is None else quotes_of(document, item.passage, finder)
        at = begin + quotes[0].start - (first.char or 0) if quotes else begin
        found.append(
            evidence_at(
                document,
                sources,
                (begin, end),
                score=item.score,
                tokens=len(item.passage),
                quotes=quotes,
                headings=[] if sections is None else sections.above(at),
            )
        )
    return found


def evidence_at(
    document: Document,
    sources: Sequence[Source],
    span: tuple[int, int],
    *,
    score: float,
    tokens: int,
    quotes: list[Quote],
    headings: list[str],
) -> Evidence:
    """The evidence that stands at some offsets in the text of a document."""
    begin, end = span
    first, last = document.provenance.locate(begin), document.provenance.locate(end - 1)
    start = first.char or 0
    return Evidence(
        source=sources[first.source].origin,
        page=first.page,
        label=first.label,
        line_start=first.line,
        line_end=last.line,
        start=start,
        end=start + end - begin,
        text=document.text[begin:end],
        score=round(score, 4),
        tokens=tokens,
        quotes=quotes,
        headings=headings,
    )


def _with_neighbours(passage: Passage, borders: Sequence[int], around: int) -> Passage:
    first = max(0, passage.number - around)
    stop = min(len(borders) - 1, passage.number + around + 1)
    return Passage(first, borders[first], borders[stop])


def quotes_of(document: Document, passage: Passage, finder: Finder) -> list[Quote]:
    """The sentences of a passage that the last question of a finder is about most, in order.

    A sentence counts by those of its tokens that are looked at most; see ``docs/memory.md``. One
    that begins before the passage or ends behind it is whole, if it is not long. Without retrieval
    heads there is nothing to choose by, and none is chosen.
    """
    if not finder.has_heads:
        return []
    text, (begin, end) = document.text, document.span(passage)
    scores = finder.looked_at(passage.first, passage.stop)
    starts = document.starts[passage.first : passage.stop]
    low, high = document.section(begin)
    low, high = max(low, begin - _AROUND_CHARS), min(high, end + _AROUND_CHARS)
    spans: list[tuple[float, int, int]] = []
    for first, last in sentences(text, low, high):
        first = behind_headings(text, first, last)
        if last <= begin or first >= end:
            continue
        if last - first > _AROUND_CHARS:  # a table, a list or code
            first, last = max(first, begin), min(last, end)
        inside = scores[slice(*np.searchsorted(starts, [first, last]))]
        if len(inside):
            spans.append((float(np.sort(inside)[-_SEEN_TOKENS:].mean()), first, last))
    best = sorted(sorted(spans, reverse=True)[:_QUOTES], key=lambda span: span[1])
    return [_quote(document, first, last, starts, scores) for _, first, last in best]


def _quote(
    document: Document,
    begin: int,
    end: int,
    starts: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> Quote:
    text, place = document.text[begin:end], document.provenance.locate(begin)
    words = []
    for match in _WORD.finditer(text):
        inside = scores[
            slice(*np.searchsorted(starts, [begin + match.start(), begin + match.end()]))
        ]
        if len(inside) and inside.max() > scores.mean() + _MARKED * scores.std():
            words.append((match.start(), match.end()))
    return Quote(text, place.char or 0, place.page, place.line, words)
