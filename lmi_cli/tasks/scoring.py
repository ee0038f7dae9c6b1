"""The work of scoring a text, cut into units whose results can be kept and put together.

A text is read in one pass, whose results are those of its pieces; or, where a method truncates, in
windows that are each read anew, whose results are those of groups of windows. The result of a unit
is a JSON object: ``start``, the position of its first token in the text; ``rows``, a list of
:class:`~lmi_cli.tasks.losses.LossRow`; ``cache_bytes``; for windows of a chosen stride,
``documented``, the weighted sum of the means of the windows and the sum of the weights; and, if
asked for, ``losses``, as :func:`losses_in` reads them.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmi_cli.engine import CHUNK
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.errors import UsageError
from lmi_cli.journal import Unit
from lmi_cli.methods import MethodChoice
from lmi_cli.methods.base import Truncation, named_parameters
from lmi_cli.tasks.losses import loss_rows
from lmi_cli.tasks.plan import Plan
from lmi_cli.tasks.scored_text import PIECE_TOKENS, ScoredText, TokenPiece


@dataclass(frozen=True, slots=True)
class ScoringMethod:
    """How texts are read to be scored.

    Attributes:
        choice: The method.
        stride: Tokens by which the windows of a method that truncates advance; None for half of
            their length, with the prefix, such as BOS, in front of each.
    """

    choice: MethodChoice
    stride: int | None = None

    def require_stride(self, truncation: Truncation | None) -> None:
        """Refuse a stride that the method has no use for, or beyond its window.

        Raises:
            UsageError: It is refused.
        """
        if self.stride is None:
            return
        if truncation is None:
            raise UsageError(
                f"--stride is for windows that are read anew, which {self.choice.name} has not",
                hint="use --method truncate",
            )
        truncation.require_stride(self.stride)


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """What is scored, and how.

    Attributes:
        methods: The methods, in the order of the report.
        length: Tokens that are scored of the stream, or of each source; None for all.
        each: Whether each source is scored by itself, from a fresh start.
        keep_nll: Whether the loss of every token is reported.
        chunk: Largest number of tokens in one forward pass.
        results: File that keeps results, by which an interrupted run goes on.
        run: What results depend on beside method, text and the options here: a JSON object.
    """

    methods: Sequence[ScoringMethod]
    length: int | None = None
    each: bool = False
    keep_nll: bool = False
    chunk: int = CHUNK
    results: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)


class ScoredWindow(NamedTuple):
    """Positions ``begin <= p < stop`` that are read; those from ``new`` on are scored."""

    begin: int
    new: int
    stop: int


def windows_of(tokens: int, size: int, stride: int) -> Iterator[ScoredWindow]:
    """Windows of at most ``size`` tokens that advance by ``stride``.

    The protocol of transformers' documentation, "Perplexity of fixed-length models".
    """
    done = 0
    for begin in range(0, tokens, stride):
        stop = min(begin + size, tokens)
        yield ScoredWindow(begin, done, stop)
        done = stop
        if stop == tokens:
            return


@dataclass(frozen=True, slots=True)
class Group:
    """Windows that are scored together, as one unit.

    Attributes:
        unit: What tells it from others.
        plan: How they are read.
        text: What they are windows of.
        lead: Ids in front of each window.
        sequence: Ids that the windows are positions in; the text, perhaps behind a prefix.
        windows: The windows.
        documented: Whether the documentation's figure is wanted as well.
    """

    unit: Unit
    plan: Plan
    text: ScoredText
    lead: Ids
    sequence: Ids
    windows: Sequence[ScoredWindow]
    documented: bool

    @property
    def cost(self) -> int:
        """Tokens that are read."""
        return sum(len(self.lead) + w.stop - w.begin for w in self.windows)


class ScoredPart(NamedTuple):
    """Tokens have just been scored.

    Attributes:
        done: Tokens of the job that have been read by now, in earlier runs included.
        read: Tokens that this run has read for the job.
        start: Position of the first token that has been scored: in the text, or of windows in
            their sequence.
        nll: Losses, float32, ``[tokens]``.
    """

    done: int
    read: int
    start: int
    nll: NDArray[np.float32]


def unit_of(method: ScoringMethod, plan: Plan, text: ScoredText, **place: Any) -> dict[str, Any]:
    """What tells a piece of work from others: the method, the text, and the place in it."""
    named = named_parameters(plan.method)
    if method.stride is not None:
        named["stride"] = method.stride
    return {"method": named, "text": text.digest, **place}


def groups_of(method: ScoringMethod, plan: Plan, text: ScoredText) -> Iterator[Group]:
    """The windows by which a text is scored, in groups that score about one piece each."""
    truncation = plan.method.truncation
    if truncation is None:
        return
    prefix = np.array(plan.prefix, dtype=np.int32)
    ids = np.concatenate([piece.ids for piece in text.known])
    if method.stride is None:
        stride = truncation.stride(len(prefix))
        lead, size = prefix, 2 * stride
    else:
        stride, size = method.stride, truncation.length
        lead, ids = prefix[:0], np.concatenate((prefix, ids))
    held: list[ScoredWindow] = []
    for window in windows_of(len(ids), size, stride):
        held.append(window)
        if window.stop - held[0].new >= PIECE_TOKENS or window.stop == len(ids):
            unit = unit_of(method, plan, text, windows=[held[0].new, window.stop])
            documented = method.stride is not None
            yield Group(unit, plan, text, lead, ids, held, documented)
            held = []


def score_group(
    engine: Engine, group: Group, *, keep: bool
) -> Iterator[ScoredPart | dict[str, Any]]:
    """Score windows one after the other; the last thing yielded is the result."""
    losses, read, cache = [], 0, 0
    weighted, weights = 0.0, 0
    for window in group.windows:
        state = engine.start()
        ids = group.sequence[window.begin : window.stop]
        scored = [event.nll for event in engine.score(state, (group.lead, ids))]
        nll = np.concatenate(scored)[window.new - window.stop :]
        losses.append(nll)
        known = nll[~np.isnan(nll)].astype(np.float64)
        # The documentation counts one token less than are new, even where all of them are scored.
        if len(known) and len(nll) > 1:
            weighted += float(known.mean()) * (len(nll) - 1)
            weights += len(nll) - 1
        read, cache = read + state.tokens, max(cache, state.nbytes)
        yield ScoredPart(read, read, window.new, nll)
    offset = len(group.sequence) - (group.text.tokens or 0)
    start = group.windows[0].new - offset
    nll = np.concatenate(losses)[max(0, -start) :]
    result = _result(max(0, start), group.text, nll, cache, keep=keep)
    yield result | ({"documented": [weighted, weights]} if group.documented else {})


def piece_result(
    number: int, piece: TokenPiece, nll: NDArray[np.float32], cache: int, *, keep: bool
) -> dict[str, Any]:
    """The result of a piece of a text that is read in one pass."""
    start = number * PIECE_TOKENS
    result = {"start": start, "rows": loss_rows(start, piece, nll), "cache_bytes": cache}
    return result | _kept(nll, keep=keep)


def _result(
    start: int, text: ScoredText, nll: NDArray[np.float32], cache: int, *, keep: bool
) -> dict[str, Any]:
    rows, done = [], 0
    while done < len(nll):
        number, first = divmod(start + done, PIECE_TOKENS)
        piece = text.known[number]
        count = min(len(nll) - done, len(piece) - first)
        part = TokenPiece(
            piece.ids[first : first + count],
            piece.sources[first : first + count],
            piece.utf8_bytes[first : first + count],
        )
        rows += loss_rows(start + done, part, nll[done : done + count])
        done += count
    return {"start": start, "rows": rows, "cache_bytes": cache} | _kept(nll, keep=keep)


def _kept(nll: NDArray[np.float32], *, keep: bool) -> dict[str, Any]:
    return {"losses": base64.b64encode(nll.astype("<f4").tobytes()).decode()} if keep else {}


def losses_in(result: Mapping[str, Any]) -> NDArray[np.float32]:
    """The losses in a result: of each token, in nats, float32, nan for one that is not scored."""
    return np.frombuffer(base64.b64decode(result["losses"]), dtype="<f4").astype(np.float32)
