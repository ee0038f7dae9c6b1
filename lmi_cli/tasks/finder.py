"""The passages of a document that a question is about, ranked by up to four signals.

Each is a number for every passage, made comparable by its mean and standard deviation:

* *heads*: the attention of the model's retrieval heads (:mod:`lmi_cli.engine.retrieval`); for a
  model without such heads, shared words (:mod:`lmi_cli.text.word_index`), and for one without
  attention layers nothing else;
* *embeddings* of the question and of the answer that the model is about to give, compared with
  those of passages (:mod:`lmi_cli.engine.embedding`);
* *likelihood* of the question behind a passage (:mod:`lmi_cli.engine.likelihood`), for the best
  passages only, since each has to be read again.

``docs/memory.md`` has the measurements behind the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.engine.embedding import embed_passages, embed_question
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.likelihood import mean_log_likelihood
from lmi_cli.engine.retrieval import (
    HeadQueries,
    attention_shares,
    contrast,
    read_question,
    token_scores,
)
from lmi_cli.methods import MethodChoice
from lmi_cli.models.directions import known_directions
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.calibrate import EMPTY_QUESTIONS
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.plan import RANKS
from lmi_cli.tasks.reading import Reading
from lmi_cli.text.prompts import LIKELIHOOD_PROMPT, Prompt
from lmi_cli.text.word_index import WordIndex

_WEIGHTS = (0.7, 1.0)
"""Of a standard deviation of similarity with the question, and with the answer."""

LIKELIHOOD_WEIGHT = 1.0
"""Of a nat."""

DECISIVE = 4.0
"""Standard deviations from which on the first signal counts twice: it then knows the place."""

SHORTLIST = 10
"""Passages whose likelihood is computed."""

_CLOSE = 0.6
"""Part of the best score from which on a neighbour is read again too."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage and its score; see :class:`lmi_cli.tasks.report.Evidence`."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """What reading a question has left.

    Attributes:
        queries: Those of the retrieval heads.
        states: ``[2, hidden]``: the mean final hidden state of the question's own tokens, and the
            state from which the answer would be generated.
    """

    queries: list[HeadQueries]
    states: Tensor


class Finder:
    """Ranks the passages of a reading that has an index.

    Args:
        model: The model that read the document.
        engine: Runs it as it was run while reading.
        reading: The reading.
        prompt: The prompt around the document.
        rank: One of ``RANKS``.
    """

    def __init__(
        self, model: Loaded, engine: Engine, reading: Reading, prompt: Prompt, rank: str = RANKS[0]
    ) -> None:
        self._model, self._engine, self._reading = model, engine, reading
        self._prompt, self._careful = prompt, rank == RANKS[0]
        self._borders = reading.document.borders
        self._empty: list[_Asked] = []
        self._asked: _Asked | None = None
        self._usual: list[Tensor] = []
        self._words: WordIndex | None = None
        self._embeddings: tuple[Tensor, Tensor] | None = None

    @property
    def _heads(self) -> RetrievalHeads | None:
        return self._reading.heads if "index" in self._reading.stores else None

    @property
    def has_heads(self) -> bool:
        """Whether there are retrieval heads that look at the document."""
        return self._heads is not None

    def rank(self, question: str) -> list[Ranked]:
        """Rank all passages, best first; there are none if the index is empty."""
        if not self.tokens:
            return []
        if self._reading.plan.words:
            return self._in_order(_standard(self._word_scores(question)))
        if not self._empty:
            self._empty = [self._ask(empty) for empty in EMPTY_QUESTIONS]
        self._asked = asked = self._ask(question)
        scores = _standard(self._head_scores(asked) if self._heads else self._word_scores(question))
        scores += np.maximum(0.0, scores - DECISIVE)
        if self._reading.means is not None:
            for weight, similarity in zip(_WEIGHTS, self._similarities(asked), strict=True):
                scores += weight * _standard(similarity)
        order = np.argsort(-scores, kind="stable")
        if self._careful and len(order) > 1:
            best = order[:SHORTLIST]
            likelihoods = self._likelihoods(question, best.tolist())
            scores[best] += LIKELIHOOD_WEIGHT * (likelihoods - likelihoods.mean())
        return self._in_order(scores)

    def _in_order(self, scores: NDArray[np.float64]) -> list[Ranked]:
        """All passages by their scores, best first."""
        bounds, order = self._borders.tolist(), np.argsort(-scores, kind="stable").tolist()
        return [Ranked(Passage(n, bounds[n], bounds[n + 1]), float(scores[n])) for n in order]

    def looked_at(self, first: int, stop: int) -> NDArray[np.float32]:
        """How much the last ranked question is about tokens ``first`` to ``stop`` of the document.

        Returns:
            float32 ``[stop - first]``: in nats, relative to questions without content.

        Raises:
            RuntimeError: There are no retrieval heads, or nothing has been asked.
        """
        if self._asked is None or not self.has_heads:
            raise RuntimeError("no heads have looked at the document")
        index, before = self._reading.stores["index"], len(self._reading.plan.prefix)
        asked, *empty = (
            token_scores(each.queries, index, first + before, stop + before)
            for each in (self._asked, *self._empty)
        )
        found: NDArray[np.float32] = (asked - torch.stack(empty).mean(0)).numpy()
        return found

    @property
    def tokens(self) -> int:
        """Tokens that are in the index."""
        means, index = self._reading.means, self._reading.stores.get("index")
        if self._reading.plan.words:
            return self._reading.document.tokens
        return index.tokens if index is not None else 0 if means is None else means.tokens

    def _ask(self, question: str) -> _Asked:
        prompt = self._prompt
        ids = np.array(prompt.tail(question), dtype=np.int32)
        state, index = self._reading.state.fork(), self._reading.stores.get("index")
        queries, hidden = read_question(self._engine, state, ids, index, self._heads)
        hidden = hidden.cpu().float()
        own = hidden[len(prompt.opening) : len(hidden) - len(prompt.closing)]
        return _Asked(queries, torch.stack((own.mean(0), hidden[-1])))

    def _head_scores(self, asked: _Asked) -> NDArray[np.float64]:
        index = self._reading.stores["index"]
        borders = self._borders + len(self._reading.plan.prefix)
        if not self._usual:
            self._usual = [attention_shares(each.queries, index, borders) for each in self._empty]
        shares = attention_shares(asked.queries, index, borders)
        return contrast(shares, self._usual).double().numpy()

    def _word_scores(self, question: str) -> NDArray[np.float64]:
        if self._words is None:
            document, bounds = self._reading.document, self._borders.tolist()
            spans = [
                document.span(Passage(number, bounds[number], bounds[number + 1]))
                for number in range(len(bounds) - 1)
            ]
            self._words = WordIndex(document.text[begin:end] for begin, end in spans)
        return self._words.scores(question).astype(np.float64)

    def _similarities(self, asked: _Asked) -> NDArray[np.float64]:
        """Cosines ``[2, passages]`` of question and of answer with each passage."""
        if self._embeddings is None:
            means = self._reading.means
            if means is None:
                raise RuntimeError("the index has no embeddings")
            directions = known_directions(self._model.files, self._model.lm)
            borders = self._borders + len(self._reading.plan.prefix)
            embedded = embed_passages(means.of_passages(borders), directions)
            self._embeddings = embedded, directions
        embedded, directions = self._embeddings
        empty = torch.stack([each.states for each in self._empty])
        unit = embed_question(asked.states, empty, directions)
        found: NDArray[np.float64] = (unit @ embedded.T).double().numpy()
        return found

    def _likelihoods(self, question: str, passages: Sequence[int]) -> NDArray[np.float64]:
        """Mean log-likelihood of the question behind each of some passages, in nats."""
        tokenizer, document = self._model.tokenizer, self._reading.document
        length = self._model.lm.trained_length
        method = MethodChoice().build(length, len(tokenizer.prefix))
        engine = Engine(self._model.lm, method, self._engine.chunk, longest=length)
        before, after = (tokenizer.encode(text).ids for text in LIKELIHOOD_PROMPT)
        before = np.concatenate([np.array(tokenizer.prefix, dtype=np.int32), before])
        asked = tokenizer.encode(" " + question).ids
        bounds = self._borders
        contexts = (
            np.concatenate([before, document.ids[bounds[n] : bounds[n + 1]], after])
            for n in passages
        )
        found = [mean_log_likelihood(engine, context, asked) for context in contexts]
        return np.array(found, dtype=np.float64)


def _standard(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with mean 0 and standard deviation 1; zeros if they are all alike."""
    centred = scores - scores.mean()
    deviation = float(centred.std())
    standard: NDArray[np.float64] = centred / deviation if deviation > 0.0 else centred
    return standard


def read_again(ranked: Sequence[Ranked]) -> list[Passage]:
    """The passages that are read again for an answer, in the order of the document.

    Beside the best one, that is the second best if it is its neighbour and scores nearly as high:
    what answers may lie on both sides of the border.
    """
    best = ranked[0]
    if len(ranked) > 1:
        second = ranked[1]
        close = second.score >= _CLOSE * best.score
        if close and abs(second.passage.number - best.passage.number) == 1:
            return sorted((best.passage, second.passage), key=lambda it: it.number)
    return [best.passage]
