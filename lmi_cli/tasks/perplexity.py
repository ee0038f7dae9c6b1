"""Perplexity: how well a model predicts a text, in one pass over all of it."""

import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmi_cli.engine import CHUNK
from lmi_cli.engine.engine import Engine, Ids, rechunk
from lmi_cli.errors import NoInputError
from lmi_cli.methods import MethodChoice
from lmi_cli.methods.base import Truncation
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.plan import plan_scoring, warnings
from lmi_cli.tasks.reading import engine_of, remember_speed, require_memory
from lmi_cli.tasks.report import ReadingReport, Timing, source_reports
from lmi_cli.text.provenance import SourceCounter
from lmi_cli.text.stream import TokenBlock, TokenStream

BUCKET_TOKENS = 4096
"""Tokens in one step of the curve."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One step of the curve: mean loss of the tokens at ``start <= position < end``."""

    start: int
    end: int
    nll: float
    tokens: int


@dataclass(slots=True)
class Score:
    """Sums over scored tokens, in float64, from which every figure is computed."""

    tokens: int = 0
    total: float = 0.0
    squares: float = 0.0
    utf8_bytes: int = 0
    buckets: list[tuple[int, float]] = field(default_factory=list)

    def add(self, position: int, nll: NDArray[np.float32]) -> None:
        """Count the tokens of a chunk.

        Args:
            position: Position of the chunk's first token among the source tokens.
            nll: In nats, float32; nan marks a token that is not scored.
        """
        while len(nll):
            index = position // BUCKET_TOKENS
            room = (index + 1) * BUCKET_TOKENS - position
            values = nll[:room][~np.isnan(nll[:room])].astype(np.float64)
            self.buckets += [(0, 0.0)] * (index + 1 - len(self.buckets))
            count, total = self.buckets[index]
            self.buckets[index] = (count + len(values), total + float(values.sum()))
            self.tokens += len(values)
            self.total += float(values.sum())
            self.squares += float(np.square(values).sum())
            position, nll = position + room, nll[room:]

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats per token."""
        return self.total / self.tokens

    @property
    def ppl(self) -> float:
        """Perplexity; infinite beyond the range of a float."""
        try:
            return math.exp(self.nll)
        except OverflowError:
            return math.inf

    @property
    def ppl_se(self) -> float | None:
        """Standard error of the perplexity, with the tokens taken as independent."""
        if self.tokens < 2 or math.isinf(self.ppl):
            return None
        variance = max(0.0, self.squares / self.tokens - self.nll**2)
        return self.ppl * math.sqrt(variance / (self.tokens - 1))

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the scored tokens."""
        return self.total / math.log(2) / self.utf8_bytes

    @property
    def curve(self) -> list[Bucket]:
        """Mean loss by position."""
        return [
            Bucket(index * BUCKET_TOKENS, (index + 1) * BUCKET_TOKENS, total / count, count)
            for index, (count, total) in enumerate(self.buckets)
            if count
        ]


@dataclass(frozen=True, slots=True)
class PerplexityReport:
    """The score of a corpus.

    Attributes:
        requested: Number of tokens asked for; None for all.
        nll: Loss of every source token, float32, nan if not scored; None unless asked for.
    """

    reading: ReadingReport
    score: Score
    requested: int | None
    nll: NDArray[np.float32] | None
    timing: Timing

    @property
    def short(self) -> bool:
        """Whether the corpus had fewer tokens than asked for."""
        return self.requested is not None and self.reading.document_tokens < self.requested


def perplexity(
    model: Loaded,
    stream: TokenStream,
    choice: MethodChoice,
    *,
    length: int | None = None,
    keep_nll: bool = False,
    chunk: int = CHUNK,
) -> Generator[Progress | Note, None, PerplexityReport]:
    """Score the first ``length`` tokens of a text, or all of them.

    Every source token except the first is scored once, given the earlier tokens that the method
    lets it see; for a method that truncates see :func:`_losses`. If a BOS token precedes the text,
    the first token is scored as well. With ``keep_nll``, the loss of every token is reported.

    Raises:
        NoInputError: There are fewer than two tokens.
    """
    sources, expected = SourceCounter(), length
    blocks: Iterable[TokenBlock] = stream.blocks(sources)
    if choice.needs_length:
        blocks, expected = _counted(blocks, length)
    plan = plan_scoring(model.known, choice, expected, chunk)
    require_memory(model, plan)
    for warning in warnings(choice, model.known):
        yield Note(warning)
    prefix = np.array(plan.prefix, dtype=np.int32)
    engine = engine_of(model, plan)
    score, timing = Score(), Timing()

    def ids() -> Iterator[Ids]:
        tokens = 0
        first = 0 if len(prefix) else 1  # the first token that is scored
        for block in blocks:
            count = len(block.ids) if length is None else min(len(block.ids), length - tokens)
            sources.count(block.starts[:count])
            score.utf8_bytes += block.utf8_bytes(max(0, first - tokens), count)
            tokens += count
            yield block.ids[:count]
            if tokens == length:
                return

    kept: list[NDArray[np.float32]] = []
    started, position, part = time.monotonic(), 0, _Part()
    for part in _losses(engine, plan.method.truncation, prefix, ids()):
        score.add(position, part.nll)
        position += len(part.nll)
        if keep_nll:
            kept.append(part.nll)
        yield Progress(position, length)
    seconds = time.monotonic() - started
    timing.add_prefill(part.read, seconds)
    remember_speed(model, plan, "score", position, seconds)
    for note in stream.notes:
        yield Note(note)
    if score.tokens == 0 or score.utf8_bytes == 0:
        raise NoInputError("the text has fewer than two tokens, so none can be scored")
    # Only now is it known whether the text fits.
    plan = plan_scoring(model.known, choice, position, chunk)
    reading = ReadingReport(
        method=plan.method.name,
        parameters=plan.method.parameters(),
        bound_tokens=plan.bound_tokens,
        form=plan.form,
        document_tokens=position,
        cache_bytes=part.cache_bytes,
        sources=source_reports(stream.corpus.sources, sources.tokens),
        skipped=list(stream.corpus.skipped),
    )
    losses = np.concatenate(kept) if keep_nll else None
    return PerplexityReport(reading, score, length, losses, timing)


class _Part(NamedTuple):
    """Losses of consecutive tokens, the tokens read until then, and the bytes of the cache."""

    nll: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    read: int = 0
    cache_bytes: int = 0


def _losses(
    engine: Engine, truncation: Truncation | None, prefix: Ids, blocks: Iterable[Ids]
) -> Iterator[_Part]:
    """The losses of a text, part by part.

    In one pass; where texts are truncated, in windows that are each read anew, behind the prefix.
    They advance by half of their length, and only what is new in a window is scored, so that every
    token is predicted from at least that many before it (the strided protocol of transformers'
    documentation, "Perplexity of fixed-length models").
    """
    if truncation is None:
        state = engine.start()
        for scored in engine.score(state, chain((prefix,), blocks)):
            first = len(prefix) if scored.tokens == len(scored.nll) else 0
            yield _Part(scored.nll[first:], scored.tokens, state.nbytes)
        return
    stride, read = truncation.stride(len(prefix)), 0
    pieces = rechunk(blocks, stride)
    window = np.empty(0, dtype=np.int32)
    for new in chain((np.concatenate([window, *islice(pieces, 2)]),), pieces):
        window = np.concatenate((window, new))[-2 * stride :]
        state = engine.start()
        losses = [scored.nll for scored in engine.score(state, (prefix, window))]
        read += state.tokens
        yield _Part(np.concatenate(losses)[-len(new) :], read, state.nbytes)


def _counted(blocks: Iterable[TokenBlock], length: int | None) -> tuple[list[TokenBlock], int]:
    """The blocks with the first ``length`` tokens, or all, and how many tokens there are."""
    taken: list[TokenBlock] = []
    tokens = 0
    for block in blocks:
        taken.append(block)
        tokens += len(block.ids)
        if length is not None and tokens >= length:
            return taken, length
    return taken, tokens
