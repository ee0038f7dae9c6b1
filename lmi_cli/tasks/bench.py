"""Speed of prefill and decode, compared with the stock model and with the machine's limits."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmi_cli.engine.engine import Ids
from lmi_cli.engine.probe import gemm_flops, read_bytes_per_s
from lmi_cli.engine.sampling import Sampling
from lmi_cli.engine.tally import Tally
from lmi_cli.errors import UsageError
from lmi_cli.memory import forget_peak_rss, peak_rss_bytes
from lmi_cli.methods import Full, Method, MethodChoice
from lmi_cli.methods.base import visible_tokens
from lmi_cli.models.costs import costs_of
from lmi_cli.models.load import Loaded
from lmi_cli.native import choice as native
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.plan import Plan, plan_scoring
from lmi_cli.tasks.reading import engine_of, require_memory
from lmi_cli.tasks.report import Timing

_WARM_UP_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of prefill up to a depth, and of decode there.

    Attributes:
        runner: Name of the method, or ``stock``.
        depth: Number of tokens read.
        prefill_tok_per_s: Speed of reading them.
        decode_tok_per_s: Speed of decode after them.
        cache_bytes: Size of the keys and values.
        peak_bytes: Peak memory of the process (or of the device) without the weights; None if the
            system cannot tell.
        prefill_share: Useful operations per second, relative to the measured rate of matrix
            products.
        decode_share: Bytes of weights, keys and values read per second, relative to the measured
            rate of reading memory.
    """

    runner: str
    depth: int
    prefill_tok_per_s: float
    decode_tok_per_s: float
    cache_bytes: int
    peak_bytes: int | None
    prefill_share: float
    decode_share: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The measured limits of matrix products and of reading memory, both per second.

    ``lmi`` or ``transformers`` runs the layers; ``C`` or ``torch`` computes linear layers, and
    attention where the library supports it.
    """

    gemm_flops: float
    read_bytes_per_s: float
    layers_by: str
    linear_by: str
    attention_by: str


@dataclass(slots=True)
class Computed:
    """What computed the passes of the method, at all depths together.

    Attributes:
        passes: Their number.
        one_call: Those that took all layers in one call of the library in C (``lmi_step``).
        layer_by_layer: The others, by the reason.
        attention: Attentions of single layers, by what computed them: ``C``, or ``torch`` with the
            reason.
    """

    passes: int = 0
    one_call: int = 0
    layer_by_layer: dict[str, int] = field(default_factory=dict)
    attention: dict[str, int] = field(default_factory=dict)

    def add(self, tally: Tally) -> None:
        """Add what has been counted."""
        self.passes += tally.passes
        self.one_call += tally.whole
        for counts, more in (
            (self.layer_by_layer, tally.refused),
            (self.attention, tally.attention),
        ):
            counts.update(Counter(counts) + more)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The speeds by runner, then depth.

    ``bound_tokens`` is the largest number of tokens that any layer keeps with ``method`` (None if
    it grows), and ``decoded`` the number of tokens generated at each depth. ``prefill`` and
    ``decode`` say what computed the passes of the method.
    """

    machine: Machine
    prefill: Computed
    decode: Computed
    rows: list[Speed]
    method: Method
    bound_tokens: int | None
    decoded: int
    timing: Timing


@dataclass(frozen=True, slots=True)
class _Run:
    prefill_s: float
    decode_s: float
    cache_bytes: int
    peak_bytes: int | None
    tallies: tuple[Tally, ...] = ()


def bench(
    loaded: Loaded,
    choice: MethodChoice,
    depths: Sequence[int],
    *,
    decode: int,
    against: str,
    chunk: int,
) -> Generator[Progress | Speed, None, BenchReport]:
    """Measure prefill of each depth, in tokens, and decode of ``decode`` tokens after it.

    The method of ``choice``, whose default window is the trained length, is compared with
    ``against``: ``stock`` (the model as run by transformers), ``full`` (full attention in our
    engine) or ``none``.

    Raises:
        UsageError: A number is out of range, or ``against`` has an unknown value.
    """
    if against not in ("stock", "full", "none"):
        raise UsageError(
            f"unknown value {against!r} for --against", hint="one of stock, full, none"
        )
    if decode < 1 or not depths or min(depths) < 1:
        raise UsageError("there is nothing to measure: depths and --decode start at 1 token")
    lm = loaded.lm
    deepest = max(depths) + decode
    plan = plan_scoring(loaded.known, choice, deepest, chunk)
    if plan.method.truncation is not None and deepest > plan.method.truncation.length:
        raise UsageError(f"{plan.method.name} never reads {deepest:,} tokens in one sequence")
    machine = Machine(
        gemm_flops(native.torch_dtype(lm.dtype, lm.device), lm.device),
        read_bytes_per_s(lm.device),
        lm.computed_by,
        lm.linear_by,
        native.computed_by(lm.dtype, lm.device),
    )
    # Speed does not depend on the content of the text.
    ids = np.random.default_rng(0).integers(0, lm.vocab_size, max(depths), dtype=np.int32)
    computed = Computed(), Computed()  # prefill and decode
    runs: list[tuple[str, Method, Callable[[Ids], Iterator[int | _Run]]]] = [
        (plan.method.name, plan.method, lambda part: _ours(loaded, plan, part, decode))
    ]
    if against == "full":
        full = plan_scoring(loaded.known, MethodChoice(Full.name), None, chunk)
        runs.append(("full", full.method, lambda part: _ours(loaded, full, part, decode)))
    elif against == "stock":
        runs.append(("stock", Full(), lambda part: _stock(loaded, part, decode)))
    places = sorted(set(depths))
    total, done = sum(places) * len(runs), 0
    rows, timing = list[Speed](), Timing()
    for name, attends, run in runs:
        for _ in run(ids[:_WARM_UP_TOKENS]):
            pass
        for depth in places:
            for event in run(ids[:depth]):
                if isinstance(event, int):
                    yield Progress(done + event, total)
                    continue
                rows.append(_speed(loaded, name, attends, depth, decode, machine, event))
                timing.add_prefill(done + depth, event.prefill_s)
                timing.add_decode(decode * len(rows), event.decode_s)
                if run is runs[0][2]:
                    for into, tally in zip(computed, event.tallies, strict=True):
                        into.add(tally)
                yield rows[-1]
            done += depth
    return BenchReport(machine, *computed, rows, plan.method, plan.bound_tokens, decode, timing)


def _ours(loaded: Loaded, plan: Plan, ids: Ids, decode: int) -> Iterator[int | _Run]:
    require_memory(loaded, plan)
    engine = engine_of(loaded, plan)
    engine.tally = reading = Tally()
    state = engine.start()
    peak = _Peak(loaded)
    started = time.perf_counter()
    for event in engine.read(state, [ids]):
        last = event.last
        yield event.tokens
    prefill_s = time.perf_counter() - started
    steps = engine.decode(state, last, stop_ids=frozenset(), limit=decode + 1, sampling=Sampling())
    next(steps)  # this one follows from the last token read
    engine.tally = stepping = Tally()
    started = time.perf_counter()
    count = sum(1 for _ in steps)
    decode_s = (time.perf_counter() - started) / max(1, count) * decode
    yield _Run(prefill_s, decode_s, state.nbytes, peak.bytes(), (reading, stepping))


def _stock(loaded: Loaded, ids: Ids, decode: int) -> Iterator[int | _Run]:
    from lmi_cli.models.stock import stock  # transformers takes seconds to import

    with stock(loaded) as model:
        peak = _Peak(loaded)
        started = time.perf_counter()
        model.read(ids)
        prefill_s = time.perf_counter() - started
        yield len(ids)
        started = time.perf_counter()
        for _ in range(decode):
            model.step()
        decode_s = time.perf_counter() - started
        yield _Run(prefill_s, decode_s, model.cache_bytes, peak.bytes(model.loaded_bytes))


class _Peak:
    """Peak memory without the weights, from here on."""

    def __init__(self, loaded: Loaded) -> None:
        self._lm = loaded.lm
        self._known = self._lm.forget_device_peak() or forget_peak_rss()

    def bytes(self, more_weights: int = 0) -> int | None:
        """The peak so far, without ``more_weights`` bytes either; None if it is not known."""
        if not self._known:
            return None
        peak = self._lm.device_peak_bytes() or peak_rss_bytes()
        # Of weights that are mapped, only what has been read is in memory.
        return max(0, peak - self._lm.weights_bytes - more_weights)


def _speed(
    loaded: Loaded,
    runner: str,
    method: Method,
    depth: int,
    decode: int,
    machine: Machine,
    run: _Run,
) -> Speed:
    layers, costs = loaded.known.facts.layers, costs_of(loaded.lm)
    seen = sum(visible_tokens(method, layer, at) for layer in layers for at in range(depth))
    flops = costs.linear_flops * depth + costs.visible_flops * seen
    kept = sum(visible_tokens(method, layer, depth + decode // 2) for layer in layers)
    read = costs.step_bytes + costs.visible_bytes * kept
    return Speed(
        runner=runner,
        depth=depth,
        prefill_tok_per_s=depth / run.prefill_s,
        decode_tok_per_s=decode / run.decode_s,
        cache_bytes=run.cache_bytes,
        peak_bytes=run.peak_bytes,
        prefill_share=flops / run.prefill_s / machine.gemm_flops,
        decode_share=read * decode / run.decode_s / machine.read_bytes_per_s,
    )
