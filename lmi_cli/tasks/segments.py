"""The segments of a document behind which the model foresees a question best (XL3M).

XL3M (Wang et al. 2024, arXiv 2405.17755) reads no long text at all: each segment of it is a short
prompt of its own with the question at its end, and the answer is based on those segments for which
the model is most certain. What is measured is said in :mod:`lmi_cli.engine.foresight`.
"""

import time
from collections.abc import Generator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lmi_cli.engine import MEASURES
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.foresight import TOGETHER, Tail, foresight
from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.finder import Ranked
from lmi_cli.text.passages import cut
from lmi_cli.text.prompts import Prompt

SEGMENT_TOKENS = 512
"""Target size of a segment, in tokens; see ``docs/prompts.md``."""

_SHARE = 4
"""A segment takes at most one part in so many of the trained length."""


class Segments:
    """The segments of a document; none crosses the border of a page or a source.

    Args:
        model: The model that judges them.
        document: The document.
        prompt: Around a segment and a question.
        chunk: Tokens in one forward pass.
        measure: One of :data:`lmi_cli.engine.MEASURES`.
        tokens: Target size of a segment.

    Attributes:
        read: Tokens read so far.
        seconds: Time for that.
    """

    def __init__(
        self,
        model: Loaded,
        document: Document,
        prompt: Prompt,
        chunk: int,
        measure: str = MEASURES[0],
        tokens: int = SEGMENT_TOKENS,
    ) -> None:
        self._document, self._prompt, self._measure = document, prompt, MEASURES.index(measure)
        length = model.known.facts.trained_length
        method = MethodChoice().build(length, len(model.tokenizer.prefix))
        self._engine = Engine(model.lm, method, chunk, longest=length)
        self._length = length
        self._tokens = max(1, min(tokens, length // _SHARE))
        self.read, self.seconds = 0, 0.0

    @cached_property
    def passages(self) -> list[Passage]:
        """The segments, in order."""
        document = self._document
        sections = np.unique(np.searchsorted(document.starts, document.provenance.sections()))
        sections = sections[sections < document.tokens]
        bounds = cut(document.text, document.starts, sections, self._tokens).tolist()
        return [Passage(n, bounds[n], bounds[n + 1]) for n in range(len(bounds) - 1)]

    def rank(self, questions: Sequence[str]) -> Generator[Progress, None, list[list[Ranked]]]:
        """All segments for each of some questions, best first; the score is in nats.

        Raises:
            ModelError: A logit is not finite.
            UsageError: A question, with the one before it, does not fit behind a segment.
        """
        started = time.monotonic()
        tails = [self._tail(question) for question in questions]
        prefix = np.array(self._prompt.prefix, dtype=np.int32)
        largest = max(map(len, self.passages)) + len(prefix)
        if (asked := max(len(tail.ids) for tail in tails)) + largest > self._length:
            raise UsageError(
                f"a question of {asked:,} tokens does not fit behind a segment of the text",
                hint="shorten the question",
            )
        scores: list[NDArray[np.float64]] = []
        for first in range(0, len(self.passages), TOGETHER):
            group = self.passages[first : first + TOGETHER]
            texts = [np.concatenate([prefix, self._ids(passage)]) for passage in group]
            scores.append(foresight(self._engine, texts, tails)[self._measure])
            self.read += sum(map(len, texts)) + len(texts) * sum(len(tail.ids) for tail in tails)
            yield Progress(group[-1].stop, self._document.tokens)
        self.seconds += time.monotonic() - started
        of_all = np.concatenate(scores)
        return [
            [Ranked(self.passages[n], float(column[n])) for n in np.argsort(-column, kind="stable")]
            for column in of_all.T
        ]

    def _ids(self, passage: Passage) -> Ids:
        return self._document.ids[passage.first : passage.stop]

    def _tail(self, question: str) -> Tail:
        ids = np.array(self._prompt.tail(question), dtype=np.int32)
        return Tail(ids, len(self._prompt.opening), len(ids) - len(self._prompt.closing))
