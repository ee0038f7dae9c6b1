"""The passages of a document that a question is about, by the model's own retrieval heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.retrieval import attention_shares, contrast
from lmi_cli.sources.blocks import Source
from lmi_cli.tasks.calibrate import EMPTY_QUESTIONS
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.report import Evidence

LISTED = 5
"""Number of passages that are listed with an answer."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage and its score, in nats; see :class:`lmi_cli.tasks.report.Evidence`."""

    passage: Passage
    score: float


class Finder:
    """Ranks the passages of a document that has been read.

    Args:
        engine: The engine that read it.
        heads: The model's retrieval heads.
        index: The keys of these heads.
        borders: Tokens of the document at which passages begin, then the number of tokens.
        prefix_tokens: Tokens in front of the document.
        tail: From a question to its ids as they stand behind the document.
    """

    def __init__(
        self,
        engine: Engine,
        heads: RetrievalHeads,
        index: TokenStore,
        borders: NDArray[np.int64],
        prefix_tokens: int,
        tail: Callable[[str], list[int]],
    ) -> None:
        self._engine = engine
        self._heads = heads
        self._index = index
        self._borders = borders
        self._prefix_tokens = prefix_tokens
        self._tail = tail
        self._empty: list[Tensor] = []

    def rank(self, state: StreamState, question: str) -> list[Ranked]:
        """Rank all passages, best first, from the state behind the document."""
        if not self._empty:
            self._empty = [self._look(state, empty) for empty in EMPTY_QUESTIONS]
        scores = contrast(self._look(state, question), self._empty)
        order = torch.argsort(scores, descending=True, stable=True).tolist()
        bounds = self._borders.tolist()
        return [Ranked(Passage(n, bounds[n], bounds[n + 1]), float(scores[n])) for n in order]

    def _look(self, state: StreamState, question: str) -> Tensor:
        ids = np.array(self._tail(question), dtype=np.int32)
        borders = self._borders + self._prefix_tokens
        return attention_shares(self._engine, state.fork(), ids, self._index, self._heads, borders)


def nearest_last(ranked: Sequence[Passage]) -> list[Passage]:
    """Order passages, given best first, with the best one next to the question that follows.

    Neighbours in the document stay together and in order.
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


def evidence_of(document: Document, sources: list[Source], ranked: list[Ranked]) -> list[Evidence]:
    """The best passages with their places in the sources; of each page, only the best passage."""
    found: list[Evidence] = []
    pages: set[tuple[int, int]] = set()
    for item in ranked:
        if len(found) == LISTED:
            break
        begin, end = document.span(item.passage)
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
            )
        )
    return found
