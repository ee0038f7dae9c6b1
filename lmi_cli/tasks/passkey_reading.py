"""Reads the texts of the passkey test as ``qa`` would, but what they have in common only once."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.haystacks import PasskeyText
from lmi_cli.tasks.passkey_report import PasskeyWay
from lmi_cli.tasks.plan import Plan, ReadingRequest, plan_reading
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.text.stream import EncodedStream


@dataclass(frozen=True, slots=True)
class PlannedReading:
    """A reading that serves several ways of answering, each as if it were read for that alone.

    Attributes:
        request: How it is read.
        plan: The plan for it.
        ways: Which of the ways it serves.
        plans: The plan of each of them, if it were the only one.
    """

    request: ReadingRequest
    plan: Plan
    ways: tuple[int, ...]
    plans: tuple[Plan, ...]


def planned_readings(
    model: Loaded,
    ways: Sequence[PasskeyWay],
    requests: Sequence[ReadingRequest],
    tokens: int,
    question: str,
) -> list[PlannedReading]:
    """The readings of one text that several ways need: those that differ in nothing but a store.

    Recording keys and values in a store changes nothing of what is read, so a reading with a store
    serves a way without one. ``requests`` are those of the ways, ``tokens`` those of the text.

    Raises:
        UsageError: A way cannot be used with such a text.
    """
    found: list[PlannedReading] = []
    for number, (way, request) in enumerate(zip(ways, requests, strict=True)):
        plan = plan_reading(model.known, request, tokens, [question])
        for at, other in enumerate(found):
            choice = ways[other.ways[0]].choice
            same = (choice.name, choice.fixed) == (way.choice.name, way.choice.fixed)
            if same and _without_store(other.plan) == _without_store(plan):
                kept = (other.request, other.plan)
                if other.plan.searching is None:
                    kept = (request, plan)
                served = (*other.ways, number), (*other.plans, plan)
                found[at] = PlannedReading(*kept, *served)
                break
        else:
            found.append(PlannedReading(request, plan, (number,), (plan,)))
    return found


def _without_store(plan: Plan) -> Plan:
    """What of a plan decides about anything but the store."""
    return replace(_settled(plan), searching=None, int8=False, only_index=False, bound_tokens=None)


def _settled(plan: Plan) -> Plan:
    """A plan without its forecasts."""
    return replace(plan, cache_bytes=None, store_bytes=None, prefill_s=None)


class SharedTexts:
    """Reads texts one after the other; what they have in common with the one before is kept.

    Attributes:
        fresh_tokens: Tokens that were read for the last text.
        seconds: Time for reading it.
    """

    def __init__(self, model: Loaded) -> None:
        self._model = model
        self._beginning: Reading | None = None
        self.fresh_tokens = 0
        self.seconds = 0.0

    def read(
        self, text: PasskeyText, planned: PlannedReading
    ) -> Generator[Progress | Note, None, Reading]:
        """Read a text; the result is as if it were the only one.

        The common beginning ends before the first needle, with a chunk, so that both parts are
        split into the same chunks as the whole.
        """
        plan, started = planned.plan, time.monotonic()
        prefix, first = len(plan.prefix), min(text.places)
        if plan.excerpt is not None:
            first = 0  # where the part that is read begins depends on the length of the text
        alike = max(0, first + prefix - (first + prefix) % plan.chunk - prefix)
        beginning = self._beginning
        if beginning is not None and not _begins(text, beginning, plan, alike):
            beginning = None
        before = 0 if beginning is None else beginning.state.tokens
        earlier = None
        if alike:
            if beginning is None or beginning.document.tokens < alike:
                beginning = yield from self._read(text.first(alike), planned, beginning)
            self._beginning, earlier = beginning, beginning.fork()
        reading = yield from self._read(text, planned, earlier)
        self.fresh_tokens = reading.state.tokens - before
        self.seconds = time.monotonic() - started
        return reading

    def _read(
        self, text: PasskeyText, planned: PlannedReading, earlier: Reading | None
    ) -> Generator[Progress | Note, None, Reading]:
        stream = EncodedStream(text.encoded, text.text, self._model.tokenizer)
        return (
            yield from read(
                self._model, stream, planned.request, earlier=earlier, plan=planned.plan
            )
        )


def _begins(text: PasskeyText, beginning: Reading, plan: Plan, alike: int) -> bool:
    """Whether a reading is one of the first ``alike`` tokens of a text, or of fewer."""
    ids = beginning.document.ids
    return (
        len(ids) <= alike
        and _settled(beginning.plan) == _settled(plan)
        and np.array_equal(ids, text.encoded.ids[: len(ids)])
    )
