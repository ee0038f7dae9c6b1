"""What is to be scored by a method: jobs, each done by one process, that resume from a journal."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmi_cli.engine.engine import Engine
from lmi_cli.journal import Journal, Unit, key
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note
from lmi_cli.tasks.losses import LossRow, Score, perplexity_of
from lmi_cli.tasks.plan import Plan, plan_scoring
from lmi_cli.tasks.reading import engine_of
from lmi_cli.tasks.scored_stream import StateBeside, pieces_in, score_stream
from lmi_cli.tasks.scored_text import PIECE_TOKENS, ScoredText
from lmi_cli.tasks.scoring import (
    Group,
    ScoredPart,
    ScoringMethod,
    ScoringRequest,
    groups_of,
    score_group,
    unit_of,
)


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """What one process does without another: a text in one pass, or a group of windows.

    Attributes:
        work: That it is a part of.
        unit: What tells it from other jobs.
        plan: How the text is read.
        text: The text.
        group: The windows; None for one pass.
    """

    work: "ScoringWork"
    unit: Unit
    plan: Plan
    text: ScoredText
    group: Group | None = None

    @property
    def cost(self) -> int:
        """Tokens that are read, as far as that is known."""
        return self.group.cost if self.group is not None else self.text.tokens or 0

    def units(self, journal: Journal) -> Iterator[Unit]:
        """The units that have results of their own."""
        if self.group is not None:
            return iter([self.unit])
        return pieces_in(journal, self.unit, self.text)

    def done(self, journal: Journal) -> bool:
        """Whether all results are there."""
        known = self.text.tokens is not None
        return known and all(unit in journal for unit in self.units(journal))


class ScoringWork:
    """Everything that is done by one method.

    Args:
        model: The model.
        request: What is scored, and how.
        method: The method.
        texts: The texts.

    Attributes:
        jobs: In the order of the texts.
        read: Tokens that this run has read.
        scored: Tokens that this run has gone on by.
        seconds: Time that this took.

    Raises:
        ModelError: The method is not for this model.
        UsageError: Its options contradict each other.
    """

    def __init__(
        self,
        model: Loaded,
        request: ScoringRequest,
        method: ScoringMethod,
        texts: list[ScoredText],
    ) -> None:
        self._model, self._request, self.method = model, request, method
        self.jobs: list[ScoringJob] = []
        self.read = self.scored = 0
        self.seconds = 0.0
        for text in texts:
            tokens = request.length if text.tokens is None else text.tokens
            plan = plan_scoring(model.known, method.choice, tokens, request.chunk)
            if plan.method.truncation is None:
                self.jobs.append(ScoringJob(self, unit_of(method, plan, text), plan, text))
            for group in groups_of(method, plan, text):
                self.jobs.append(ScoringJob(self, group.unit, plan, text, group))
        self._before: set[str] = set()
        self._tokens, self._sum = 0, 0.0  # of the running estimate

    def take_up(self, journal: Journal) -> None:
        """Begin the running estimate with what has been scored in earlier runs."""
        for job in self.jobs:
            for unit in job.units(journal):
                if unit not in journal:
                    continue
                self._before.add(key(unit))
                score = Score.of(map(LossRow._make, journal.result(unit)["rows"]))
                self._tokens, self._sum = self._tokens + score.tokens, self._sum + score.total

    @property
    def estimate(self) -> str:
        """The perplexity so far, with the method if there are several."""
        name = self.method.choice.name if len(self._request.methods) > 1 else ""
        if not self._tokens:
            return name
        return f"{name} ppl {perplexity_of(self._sum / self._tokens):.2f}".strip()

    def score(self, job: ScoringJob, journal: Journal) -> Iterator[ScoredPart | Note]:
        """Do a job, and add its results to the journal."""
        engine = engine_of(self._model, job.plan)
        started, read, scored = time.monotonic(), 0, 0
        for event in self._events(engine, job, journal):
            if isinstance(event, dict):
                journal.add(job.unit, event)
                continue
            if isinstance(event, ScoredPart):
                read, scored = event.read, scored + len(event.nll)
                self._estimate(job, event)
            yield event
        self.read, self.scored = self.read + read, self.scored + scored
        self.seconds += time.monotonic() - started

    def _events(
        self, engine: Engine, job: ScoringJob, journal: Journal
    ) -> Iterator[ScoredPart | Note | dict[str, Any]]:
        request = self._request
        if job.group is not None:
            return score_group(engine, job.group, keep=request.keep_nll)
        beside = StateBeside(request.results, job.unit, job.plan, request.run)
        return score_stream(
            self._model, engine, job.plan, job.text, job.unit, journal, beside,
            keep=request.keep_nll,
        )  # fmt: skip

    def _estimate(self, job: ScoringJob, part: ScoredPart) -> None:
        if job.group is None:
            piece = {**job.unit, "piece": part.start // PIECE_TOKENS}
            if key(piece) in self._before:
                return
        self._tokens += int(np.count_nonzero(~np.isnan(part.nll)))
        self._sum += float(np.nansum(part.nll, dtype=np.float64))
