"""A text that is scored in one pass, and goes on in its middle after an interruption.

Beside the file of results, the state of the stream is saved at intervals. The loss of the first
token behind a state needs the hidden state before it, which is not saved; so a state counts only
once the results of the piece with that token are kept, and these are not computed again.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmi_cli.cache import statefile
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.errors import StateFileError
from lmi_cli.journal import Journal, Unit, key
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note
from lmi_cli.tasks.plan import Plan
from lmi_cli.tasks.scored_text import PIECE_TOKENS, ScoredText, TokenPiece
from lmi_cli.tasks.scoring import ScoredPart, piece_result

FIRST_SAVE_S = 60.0
_SAVE_SHARE = 10
"""Saving takes at most one part in this many of the time."""


def pieces_in(journal: Journal, unit: Unit, text: ScoredText) -> Iterator[Unit]:
    """The units of the pieces of a text, or of those that have results if it is not known."""
    if text.tokens is not None:
        yield from ({**unit, "piece": number} for number in range(len(text.known)))
        return
    number = 0
    while {**unit, "piece": number} in journal:
        yield {**unit, "piece": number}
        number += 1


class StateBeside:
    """The state of one stream, in a file beside the file of results.

    Args:
        results: The file of results; None keeps no state.
        unit: The stream.
        plan: How it is read. A state that grows with the text is not kept.
        run: What the results depend on.
    """

    def __init__(
        self, results: Path | None, unit: Unit, plan: Plan, run: Mapping[str, Any]
    ) -> None:
        self._unit, self._lead = unit, len(plan.prefix)
        self._identity = key({"run": dict(run), "unit": dict(unit), "chunk": plan.chunk})
        self._path: Path | None = None
        if results is not None and plan.bound_tokens is not None:
            name = hashlib.sha256(self._identity.encode()).hexdigest()[:12]
            self._path = results.with_name(f"{results.name}.{name}.state")
        self._waiting: tuple[Path, int] | None = None
        self._saved, self._pause = time.monotonic(), FIRST_SAVE_S

    def start(
        self, engine: Engine, model: Loaded, journal: Journal
    ) -> tuple[StreamState, Note | None]:
        """The saved state, or a fresh one, and what the user should know about it."""
        if self._path is None or not self._path.exists():
            return engine.start(), None
        state = engine.start()
        try:
            described, tensors = statefile.read(self._path)
            if described.get("identity") != self._identity:
                raise StateFileError(f"{self._path} belongs to another stream")
            state.restore(tensors, model.lm.layer_devices())
            reached = (state.tokens - self._lead) // PIECE_TOKENS
            if not all({**self._unit, "piece": n} in journal for n in range(reached + 1)):
                raise StateFileError(f"{self._path} is ahead of the results")
        except (StateFileError, LookupError, ValueError, RuntimeError) as error:
            said = error.message if isinstance(error, StateFileError) else str(error)
            note = Note(f"{said}; so this text is scored again from its beginning")
            return engine.start(), note
        return state, Note(f"continuing after the {state.tokens:,} tokens of an interrupted run")

    def save(self, state: StreamState, position: int) -> None:
        """Save a state now and then; it counts when the piece at ``position`` has been kept.

        Raises:
            ResourceError: The disk is full.
        """
        now = time.monotonic()
        if self._path is None or self._waiting is not None or now - self._saved < self._pause:
            return
        waiting = self._path.with_name(self._path.name + ".new")
        statefile.write(waiting, state.save(), {"identity": self._identity})
        self._waiting = waiting, position // PIECE_TOKENS
        self._saved = time.monotonic()
        self._pause = max(FIRST_SAVE_S, _SAVE_SHARE * (self._saved - now))

    def kept(self, number: int) -> None:
        """Results of a piece have been kept."""
        if self._path is not None and self._waiting is not None and number >= self._waiting[1]:
            self._waiting[0].replace(self._path)
            self._waiting = None

    def remove(self) -> None:
        """Remove what a finished stream needs no more."""
        if self._path is not None:
            for path in (self._path, self._path.with_name(self._path.name + ".new")):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def score_stream(
    model: Loaded,
    engine: Engine,
    plan: Plan,
    text: ScoredText,
    unit: Unit,
    journal: Journal,
    beside: StateBeside,
    *,
    keep: bool,
) -> Iterator[ScoredPart | Note]:
    """Score a text in one pass, and add the results of its pieces to a journal."""
    state, note = beside.start(engine, model, journal)
    if note is not None:
        yield note
    lead, before, resumed = len(plan.prefix), state.tokens, state.tokens > 0
    position = max(0, state.tokens - lead)
    resumed_in, behind = divmod(position, PIECE_TOKENS)
    number = resumed_in
    taken: list[TokenPiece] = []

    def ids() -> Iterator[Ids]:
        if not resumed:
            yield np.array(plan.prefix, dtype=np.int32)
        for place, piece in enumerate(text.pieces):
            if place >= resumed_in:
                taken.append(piece)
                yield piece.ids[behind if place == resumed_in else 0 :]

    # What stands before the resumed position in its piece is in results that are kept already.
    held: NDArray[np.float32] = np.full(behind if resumed else 0, np.nan, dtype=np.float32)
    first = 0 if resumed else lead
    for scored in engine.score(state, ids()):
        nll = scored.nll[first:]
        first = max(0, first - len(scored.nll))
        held = np.concatenate((held, nll))
        position += len(nll)
        while len(held) >= PIECE_TOKENS:
            _keep(journal, unit, number, taken.pop(0), held[:PIECE_TOKENS], state, keep=keep)
            beside.kept(number)
            held, number = held[PIECE_TOKENS:], number + 1
        if state.tokens % engine.chunk == 0:  # so that later passes are those of one run
            beside.save(state, position)
        yield ScoredPart(position, state.tokens - before, position - len(nll), nll)
    if len(held):
        _keep(journal, unit, number, taken.pop(0), held, state, keep=keep)
    beside.remove()


def _keep(
    journal: Journal,
    unit: Unit,
    number: int,
    piece: TokenPiece,
    nll: NDArray[np.float32],
    state: StreamState,
    *,
    keep: bool,
) -> None:
    place = {**unit, "piece": number}
    if place not in journal:
        journal.add(place, piece_result(number, piece, nll, state.nbytes, keep=keep))
