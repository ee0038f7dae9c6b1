"""The results of ``lmi passkey`` as text, JSON, CSV and heat maps."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lmi_cli.cli import envelope
from lmi_cli.cli.chart import heat_map_text
from lmi_cli.cli.request import Request
from lmi_cli.cli.session import Opened
from lmi_cli.figures import HeatMap

if TYPE_CHECKING:
    from lmi_cli.tasks.passkey import PasskeyGrid
    from lmi_cli.tasks.passkey_report import Cell, PasskeyReport, PasskeyWay, WayReport

_BASES = {
    "whole": "the whole text",
    "passages": "passages that were read again",
    "memory": "the store",
    "window": "the window",
}
ANSWER_COLUMNS = (
    "method", "answer_from", "needle", "values", "haystack", "length", "depth", "trial", "expected",
    "answer", "score", "window_answer", "window_score", "tokens", "answer_s",
)  # fmt: skip


def way_names(ways: "Sequence[PasskeyWay]") -> list[str]:
    """What distinguishes each way from the others: its method, its basis of answers, or both."""
    methods, bases = {way.choice.name for way in ways}, {way.name for way in ways}
    if len(bases) == 1:
        return [way.choice.name for way in ways]
    if len(methods) == 1:
        return [way.name for way in ways]
    return [f"{way.choice.name}, {way.name}" for way in ways]


def tally(cell: "Cell") -> str:
    """Such as ``2/3``, or the mean score where an answer can be right in part."""
    score = sum(trial.score for trial in cell.trials)
    return f"{score:.4g}/{len(cell.trials)}"


def as_map(report: "WayReport", name: str, *, totals: bool = False, alone: bool = False) -> HeatMap:
    """A row for each depth, a column for each length, and the mean score in the cells.

    With ``totals``, a row for all depths follows; with ``alone``, if answers were based on more
    than the window, one for what the window alone would have given.
    """
    lengths = list(dict.fromkeys(cell.length for cell in report.cells))
    depths = list(dict.fromkeys(cell.depth for cell in report.cells))
    cells = {(cell.length, cell.depth): cell for cell in report.cells}
    rows = [f"{depth:g} %" for depth in depths]
    values: list[list[float | None]] = [
        [cells[length, depth].accuracy for length in lengths] for depth in depths
    ]
    if totals:
        table = [[cells[length, depth] for depth in depths] for length in lengths]
        rows.append("all")
        values.append([_mean([cell.accuracy for cell in column]) for column in table])
        window = [_mean([cell.window_accuracy for cell in column]) for column in table]
        if alone and any(share is not None for share in window):
            rows.append("window")
            values.append(window)
    return HeatMap(name, rows, [f"{length:,}" for length in lengths], values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def as_text(report: "PasskeyReport", width: int, *, colour: bool) -> str:
    """A heat map for each way, in percent of right answers."""
    names = way_names([each.way for each in report.ways])
    alone = all(each.way.name != "window" for each in report.ways)  # which has a map of its own
    maps = [
        heat_map_text(
            as_map(way, name, totals=True, alone=alone),
            width=width,
            row_label="depth",
            column_label="length in tokens",
            colour=colour,
        )
        for way, name in zip(report.ways, names, strict=True)
    ]
    return "\n".join(maps)


def closing(report: "PasskeyReport") -> list[str]:
    """How texts were read and answered, and at what speed, a sentence each."""
    names, lines = way_names([each.way for each in report.ways]), []
    for way, name in zip(report.ways, names, strict=True):
        which = f"{name}: " if len(names) > 1 else ""
        for (method, basis), used in groupby(
            way.methods.items(), key=lambda item: (item[1].name, item[1].answered_from)
        ):
            lengths = ", ".join(f"{length:,}" for length, _ in used)
            lines.append(
                f"{which}{lengths} tokens read with {method}, answered from {_BASES[basis]}"
            )
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s
    if speed is None:
        return [*lines, "all answers were known from an earlier start"]
    return [*lines, f"read {report.read:,} tokens in {seconds:.1f} s ({speed:,.0f} tok/s)"]


def answer_rows(report: "PasskeyReport", grid: "PasskeyGrid") -> list[dict[str, object]]:
    """A row for each answer, of which ``ANSWER_COLUMNS`` are for a table."""
    return [
        {
            "method": way.way.choice.name,
            "answer_from": way.way.name,
            "needle": grid.needle.name,
            "values": grid.needle.value,
            "haystack": grid.haystack.name,
            "length": cell.length,
            "depth": cell.depth,
            **asdict(trial),
        }
        for way in report.ways
        for cell in way.cells
        for trial in cell.trials
    ]


def as_json(opened: Opened, report: "PasskeyReport", grid: "PasskeyGrid", request: Request) -> str:
    """The object of ``--json``."""
    lm = opened.loaded.lm
    sizes = lm.weights_bytes, report.cache_bytes, report.store_bytes, lm.device_peak_bytes()
    bounds = [used.bound_tokens for way in report.ways for used in way.methods.values()]
    return envelope.dump(
        "passkey",
        model=envelope.model_object(opened),
        method={
            "name": ",".join(dict.fromkeys(way.way.choice.name for way in report.ways)),
            "bound_tokens": None if None in bounds else max(b for b in bounds if b is not None),
            "by_length": [
                {
                    **_way(way),
                    "length": length,
                    **used.parameters,
                    "bound_tokens": used.bound_tokens,
                    "form": used.form,
                    "answered_from": used.answered_from,
                }
                for way in report.ways
                for length, used in way.methods.items()
            ],
        },
        sources=[],
        skipped=[],
        tokens=envelope.tokens_object(report.tokens, report.generated),
        sampling=envelope.sampling_object(request),
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(*sizes),
        needle={
            "name": grid.needle.name,
            "values": grid.needle.value,
            "haystack": grid.haystack.name,
            "haystack_identity": grid.haystack.identity,
        },
        ways=[{**_way(way), "accuracy": way.accuracy} for way in report.ways],
        cells=[
            {
                **_way(way),
                "length": cell.length,
                "depth": cell.depth,
                "trials": len(cell.trials),
                "accuracy": cell.accuracy,
                "window_accuracy": cell.window_accuracy,
                "answers": [asdict(trial) for trial in cell.trials],
            }
            for way in report.ways
            for cell in way.cells
        ],
    )


def _way(report: "WayReport") -> dict[str, Any]:
    return {"method": report.way.choice.name, "answer_from": report.way.name}
