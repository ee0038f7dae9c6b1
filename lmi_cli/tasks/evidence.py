"""The passages of a document that a question is about, ranked by the model's retrieval heads."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.retrieval import (
    HeadQueries,
    attention_shares,
    contrast,
    head_queries,
    token_scores,
)
from lmi_cli.sources.blocks import Source
from lmi_cli.tasks.calibrate import EMPTY_QUESTIONS
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Evidence, Quote
from lmi_cli.text.prompts import Prompt
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


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage and its score, in nats; see :class:`lmi_cli.tasks.report.Evidence`."""

    passage: Passage
    score: float


class Finder:
    """Ranks the passages of a reading, with its index of the keys of ``heads``.

    ``engine`` is the one that read the document, and ``prompt`` the prompt around it.
    """

    def __init__(
        self, engine: Engine, reading: Reading, heads: RetrievalHeads, prompt: Prompt
    ) -> None:
        self._engine, self._reading, self._heads, self._prompt = engine, reading, heads, prompt
        self._borders = reading.document.borders
        self._empty: list[list[HeadQueries]] = []
        self._usual: list[Tensor] = []
        self._asked: list[HeadQueries] = []

    def rank(self, question: str) -> list[Ranked]:
        """Rank all passages, best first; there are none if the index is empty."""
        index = self._reading.stores["index"]
        if not index.tokens:
            return []
        borders = self._borders + len(self._reading.plan.prefix)
        if not self._empty:
            self._empty = [self._queries(empty) for empty in EMPTY_QUESTIONS]
            self._usual = [attention_shares(each, index, borders) for each in self._empty]
        self._asked = self._queries(question)
        scores = contrast(attention_shares(self._asked, index, borders), self._usual)
        order = torch.argsort(scores, descending=True, stable=True).tolist()
        bounds = self._borders.tolist()
        return [Ranked(Passage(n, bounds[n], bounds[n + 1]), float(scores[n])) for n in order]

    def looked_at(self, first: int, stop: int) -> NDArray[np.float32]:
        """How much the last ranked question is about tokens ``first`` to ``stop`` of the document.

        Returns:
            float32 ``[stop - first]``: in nats, relative to questions without content.
        """
        index, before = self._reading.stores["index"], len(self._reading.plan.prefix)
        asked, *empty = (
            token_scores(queries, index, first + before, stop + before)
            for queries in (self._asked, *self._empty)
        )
        found: NDArray[np.float32] = (asked - torch.stack(empty).mean(0)).numpy()
        return found

    def _queries(self, question: str) -> list[HeadQueries]:
        ids = np.array(self._prompt.tail(question), dtype=np.int32)
        state, index = self._reading.state.fork(), self._reading.stores["index"]
        return head_queries(self._engine, state, ids, index, self._heads)


def nearest_last(ranked: Sequence[Passage]) -> list[Passage]:
    """Reorder passages that are sorted best first, so that the best one comes last.

    It then stands next to the question. Neighbours in the document stay together and in order.
    """
    runs: list[list[Passage]] = []
    for passage in sorted(ranked, key=lambda item: item.number):
        if runs and runs[-1][-1].stop == passage.first:
            runs[-1].append(passage)
        else:
            runs.append([passage])
    place = {passage.number: rank for rank, passage in enumerate(ranked)}
    runs.sort(key=lambda run: -min(place[passage.number] for passage in run))
    return [passage for run in runs for passage in run]


def evidence_of(
    document: Document,
    sources: list[Source],
    ranked: Sequence[Ranked],
    finder: Finder | None,
    count: int = LISTED,
    around: int = 0,
) -> list[Evidence]:
    """The best passages with their places in the sources; of each page, only the best passage.

    Args:
        document: The document.
        sources: Its sources.
        ranked: Its passages, ranked by ``finder``, which was asked nothing since.
        finder: Chooses the sentences that are quoted.
        count: How many at most.
        around: Passages on either side that belong to the text of each.
    """
    borders = document.borders.tolist()
    found: list[Evidence] = []
    pages: set[tuple[int, int]] = set()
    for item in ranked:
        if len(found) == count:
            break
        begin, end = document.span(_with_neighbours(item.passage, borders, around))
        first = document.provenance.locate(begin)
        if first.page is not None:
            if (first.source, first.page) in pages:
                continue
            pages.add((first.source, first.page))
        last = document.provenance.locate(end - 1)
        start = first.char or 0
        found.append(
            Evidence(
                source=sources[first.source].origin,
                page=first.page,
                label=first.label,
                line_start=first.line,
                line_end=last.line,
                start=start,
                end=start + end - begin,
                text=document.text[begin:end],
                score=round(item.score, 4),
                tokens=len(item.passage),
                quotes=[] if finder is None else quotes_of(document, item.passage, finder),
            )
        )
    return found


def _with_neighbours(passage: Passage, borders: Sequence[int], around: int) -> Passage:
    first = max(0, passage.number - around)
    stop = min(len(borders) - 1, passage.number + around + 1)
    return Passage(first, borders[first], borders[stop])


def quotes_of(document: Document, passage: Passage, finder: Finder) -> list[Quote]:
    """The sentences of a passage that the last question of a finder is about most, in order.

    A sentence counts by those of its tokens that are looked at most; see ``docs/memory.md``. One
    that begins before the passage or ends behind it is whole, if it is not long.
    """
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
