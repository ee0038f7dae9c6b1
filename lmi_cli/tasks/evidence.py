"""The passages of a document that a question is about, ranked by the model's retrieval heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.retrieval import attention_shares, contrast
from lmi_cli.sources.blocks import Source
from lmi_cli.tasks.calibrate import EMPTY_QUESTIONS
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Evidence
from lmi_cli.text.prompts import Prompt

LISTED = 5
"""Number of passages that are listed with an answer."""


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
        self._empty: list[Tensor] = []

    def rank(self, question: str) -> list[Ranked]:
        """Rank all passages, best first; there are none if the index is empty."""
        if not self._reading.stores["index"].tokens:
            return []
        if not self._empty:
            self._empty = [self._shares(empty) for empty in EMPTY_QUESTIONS]
        scores = contrast(self._shares(question), self._empty)
        order = torch.argsort(scores, descending=True, stable=True).tolist()
        bounds = self._borders.tolist()
        return [Ranked(Passage(n, bounds[n], bounds[n + 1]), float(scores[n])) for n in order]

    def _shares(self, question: str) -> Tensor:
        ids = np.array(self._prompt.tail(question), dtype=np.int32)
        state, index = self._reading.state.fork(), self._reading.stores["index"]
        borders = self._borders + len(self._reading.plan.prefix)
        return attention_shares(self._engine, state, ids, index, self._heads, borders)


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
