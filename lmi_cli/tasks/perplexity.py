"""Perplexity: how well a model predicts texts, read by one method or by several."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmi_cli.errors import NoInputError
from lmi_cli.journal import Journal, key
from lmi_cli.methods.base import named_parameters
from lmi_cli.models.load import Loaded
from lmi_cli.processes import Processes
from lmi_cli.sources.blocks import Skipped
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.losses import LossRow, Score
from lmi_cli.tasks.plan import plan_scoring, warnings
from lmi_cli.tasks.reading import remember_speed, require_memory
from lmi_cli.tasks.report import SourceReport, Timing, source_reports
from lmi_cli.tasks.scored_text import ScoredTexts
from lmi_cli.tasks.scoring import ScoringRequest, losses_in
from lmi_cli.tasks.scoring_work import ScoringWork
from lmi_cli.text.stream import TokenStream


@dataclass(frozen=True, slots=True)
class MethodScore:
    """The score by one method.

    Attributes:
        method: Name and parameters.
        bound_tokens: Largest number of tokens that any layer keeps; None grows with the text.
        form: ``fits`` or ``stream``, as in a plan.
        cache_bytes: Size of the largest cache.
        score: Over all that is scored.
        sources: Score of the tokens of each source, by number; None where none is scored. Lines
            that name files belong to no source.
        headers: Score of these lines; None if none is scored.
        documented_nll: With a chosen stride, the mean loss as the documentation of transformers
            computes it, where a window counts for one token less than it scores; None without.
        nll: Loss of every token, float32, nan if not scored; None unless asked for.
        timing: Time of this run alone.
    """

    method: dict[str, Any]
    bound_tokens: int | None
    form: str
    cache_bytes: int
    score: Score
    sources: list[Score | None]
    headers: Score | None
    documented_nll: float | None
    nll: NDArray[np.float32] | None
    timing: Timing


@dataclass(frozen=True, slots=True)
class PerplexityReport:
    """The scores of a corpus.

    Attributes:
        methods: Scores in the order that was asked for.
        tokens: Tokens of all texts, whether scored or not.
        read: Tokens that this run has read, by all methods and in all processes.
        requested: Number of tokens asked for; None for all.
        each: Whether sources were scored by themselves.
    """

    methods: list[MethodScore]
    tokens: int
    read: int
    requested: int | None
    each: bool
    sources: list[SourceReport]
    skipped: list[Skipped]

    @property
    def short(self) -> bool:
        """Whether the stream had fewer tokens than asked for."""
        return not self.each and self.requested is not None and self.tokens < self.requested


def perplexity(
    model: Loaded,
    stream: TokenStream,
    request: ScoringRequest,
    processes: Processes | None = None,
) -> Generator[Progress | Note, None, PerplexityReport]:
    """Score a text, or each of its sources, by one method or by several.

    Several ``processes`` share the methods, the texts, and the windows of methods that truncate;
    all have the same report in the end.

    Every token except the first of a text is scored once, given the earlier tokens that the method
    lets it see; see :mod:`lmi_cli.tasks.scoring` for methods that truncate. Behind a BOS token, the
    first token is scored as well.

    Raises:
        ModelError: A method is not for this model.
        NoInputError: No token can be scored.
        UsageError: Options contradict each other.
    """
    processes = processes or Processes()
    for method in request.methods:
        plan = plan_scoring(model.known, method.choice, request.length, request.chunk)
        method.require_stride(plan.method.truncation)
    for warning in dict.fromkeys(
        warning for method in request.methods for warning in warnings(method.choice, model.known)
    ):
        yield Note(warning)
    lazily = _lazily(request, processes)
    texts = ScoredTexts(stream, request.length, each=request.each, lazily=lazily)
    works = [ScoringWork(model, request, method, texts.texts) for method in request.methods]
    for plan in {id(job.plan): job.plan for work in works for job in work.jobs}.values():
        require_memory(model, plan)
    with processes.first():  # all begin with the same results
        journal = Journal(request.results, {**request.run, "losses": request.keep_nll})
    if journal.damage is not None:
        yield Note(journal.damage)
    jobs = {key(job.unit): job for work in works for job in work.jobs}
    left = [job for job in jobs.values() if not job.done(journal)]
    if processes.count > 1:
        left.sort(key=lambda job: -job.cost)  # what takes longest is begun first
        if 0 < len(left) < processes.count:
            yield Note(
                f"{len(left)} of {processes.count} processes have work, since a text that is read "
                "in one pass is not divided"
            )
    for work in works:
        work.take_up(journal)
    total = None if lazily else sum(job.cost for job in left)
    done, note = 0, ""
    for job in processes.share(left):
        before = 0  # tokens of the job that have been read
        for event in job.work.score(job, journal):
            if isinstance(event, Note):
                yield event
                continue
            done, before = processes.done(event.done - before), event.done
            expected = texts.expected(done) if total is None else total
            note = job.work.estimate
            yield Progress(done, expected, note=note)
    for _ in processes.waiting():
        yield Progress(processes.done(), total, note=note)
    processes.gather(journal)
    for note in stream.notes:
        yield Note(note)
    spent = [processes.collect((work.read, work.seconds)) for work in works]
    return PerplexityReport(
        methods=[
            _score(model, request, work, texts, journal, each)
            for work, each in zip(works, spent, strict=True)
        ],
        tokens=texts.tokens,
        read=sum(read for each in spent for read, _ in each),
        requested=request.length,
        each=request.each,
        sources=source_reports(stream.corpus.sources, texts.counts),
        skipped=list(stream.corpus.skipped),
    )


def _lazily(request: ScoringRequest, processes: Processes) -> bool:
    """Whether tokens are taken only as they are scored, which takes no memory for them."""
    alone = len(request.methods) == 1 and processes.count == 1
    counts = any(method.choice.needs_length for method in request.methods)
    return alone and not request.each and request.results is None and not counts


def _score(
    model: Loaded,
    request: ScoringRequest,
    work: ScoringWork,
    texts: ScoredTexts,
    journal: Journal,
    spent: list[tuple[int, float]],
) -> MethodScore:
    """The score by one method, from the results in a journal.

    ``spent`` are the tokens that each process has read for it, and the seconds that this took.
    """
    rows: list[LossRow] = []
    losses: list[NDArray[np.float32]] = []
    cache, weighted, weights = 0, 0.0, 0
    for job in work.jobs:
        for unit in job.units(journal):
            result = journal.result(unit)
            for row in map(LossRow._make, result["rows"]):
                rows.append(row._replace(source=job.text.source_of(row.source)))
            if request.keep_nll:
                losses.append(losses_in(result))
            cache = max(cache, result["cache_bytes"])
            partial = result.get("documented", (0.0, 0))
            weighted, weights = weighted + partial[0], weights + partial[1]
    score = Score.of(rows)
    if score.tokens == 0:
        texts_have = "each text has" if request.each else "the text has"
        raise NoInputError(f"{texts_have} fewer than two tokens, so none can be scored")
    by_source: dict[int, list[LossRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    parts = {number: Score.of(found) for number, found in by_source.items()}
    # Only now is it known whether the text fits.
    longest = max((text.tokens or 0 for text in texts.texts), default=0) or texts.tokens
    plan = plan_scoring(model.known, work.method.choice, longest, request.chunk)
    named = named_parameters(plan.method)
    if work.method.stride is not None:
        named["stride"] = work.method.stride
    timing = Timing()
    timing.add_prefill(sum(read for read, _ in spent), max(seconds for _, seconds in spent))
    if len(spent) == 1 and work.method.stride is None and work.seconds:
        remember_speed(model, plan, "score", work.scored, work.seconds)
    return MethodScore(
        method=named,
        bound_tokens=plan.bound_tokens,
        form=plan.form,
        cache_bytes=cache,
        score=score,
        sources=[parts.get(number) for number in range(len(texts.counts))],
        headers=parts.get(-1),
        documented_nll=weighted / weights if weights else None,
        nll=np.concatenate(losses) if request.keep_nll else None,
        timing=timing,
    )
