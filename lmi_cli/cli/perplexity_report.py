"""The report of ``lmi perplexity``: tables, a chart in the terminal, rows for other programs."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lmi_cli.cli.chart import line_chart_text
from lmi_cli.cli.console import one_line
from lmi_cli.figures import Line

if TYPE_CHECKING:
    from lmi_cli.tasks.losses import Bucket, Score
    from lmi_cli.tasks.perplexity import MethodScore, PerplexityReport

_WIDTH, _WIDE = 80, 200
"""Columns of a chart and of tables where there is no terminal."""
_WIDEST_CHART = 100
_HEIGHT = 12
_LEAST_POINTS = 3
_MOST_STEPS = 40
_MOST_SOURCES = 20
_CELL = 12
_PLACE = 19
_LEAST_NAME = 24
_HEADERS = "(names of files)"


def scores_as_text(
    report: "PerplexityReport", terminal: int | None, *, colour: bool
) -> Iterator[str]:
    """Everything for a reader, part by part.

    Args:
        report: The scores.
        terminal: Width of the terminal; None for none.
        colour: Whether it shows colours.
    """
    width = terminal or _WIDE
    yield _comparison(report, width) if len(report.methods) > 1 else _single(report)
    lines = curves(report)
    if max(len(line.x) for line in lines) >= _LEAST_POINTS:
        yield "\n" + line_chart_text(
            lines,
            width=min(terminal or _WIDTH, _WIDEST_CHART),
            height=_HEIGHT,
            x_label="position in the source, tokens" if report.each else "position, tokens",
            y_label="nats/token",
            colour=colour,
        )
    if len(report.sources) > 1:
        yield "\n" + _sources(report, width)


def curves(report: "PerplexityReport") -> list[Line]:
    """A line for each method: its mean loss by position, in the middle of each step."""
    return [
        Line(
            score.method["name"],
            [(bucket.start + _end(bucket, report)) / 2 for bucket in score.score.curve],
            [bucket.nll for bucket in score.score.curve],
        )
        for score in report.methods
    ]


def loss_rows(report: "PerplexityReport") -> list[dict[str, object]]:
    """Mean losses in nats per token, by method, source and position, as rows.

    Lines that name files have no source. The mean of the column ``nll`` with the weights ``tokens``
    is the loss of a method, and of a source.
    """
    rows: list[dict[str, object]] = []
    for score in report.methods:
        named: list[str | None] = [source.origin for source in report.sources]
        for origin, part in [*zip(named, score.sources, strict=True), (None, score.headers)]:
            for bucket in () if part is None else part.curve:
                place = {"start": bucket.start, "end": bucket.end, "tokens": bucket.tokens}
                method = {"method": score.method["name"], "source": origin}
                rows.append({**method, **place, "nll": bucket.nll})
    return rows


def _single(report: "PerplexityReport") -> str:
    (found,) = report.methods
    score = found.score
    lines = [f"{'position':>19}  {'nats/token':>10}  {'tokens':>9}"]
    for bucket in _fewer(score.curve):
        place = _place(bucket, report)
        lines.append(f"{place}  {bucket.nll:>10.4f}  {bucket.tokens:>9,}")
    error = ""
    if score.ppl_se is not None:
        error = f" ± {_number(score.ppl_se)} (standard error, tokens taken as independent)"
    lines += [
        f"perplexity    {_number(score.ppl)}{error}",
        f"nats/token    {score.nll:.4f}",
        f"bits/byte     {_number(score.bits_per_byte)}",
        f"tokens        {score.tokens:,} scored of {report.tokens:,} read",
    ]
    if found.documented_nll is not None:
        lines.append(
            f"documented    {_ppl(found.documented_nll)} (perplexity by the weights of "
            "transformers' documentation)"
        )
    return "\n".join(lines) + "\n"


def _comparison(report: "PerplexityReport", width: int) -> str:
    """A column for each method, in blocks of as many as fit the width."""
    cells = [max(_CELL, len(score.method["name"]) + 2) for score in report.methods]
    texts = []
    for block in _blocks(cells, width - _PLACE):
        rows = _compared_rows(report, report.methods[block])
        lines = (_row(title, row, _PLACE, cells[block]) for title, row in rows)
        texts.append("".join(f"{line}\n" for line in lines))
    return "\n".join(texts)


def _blocks(cells: Sequence[int], width: int) -> Iterator[slice]:
    """Columns of a table in blocks, each of as many as fit a width, and of one at least."""
    first = used = 0
    for number, cell in enumerate(cells):
        if number > first and used + cell > width:
            yield slice(first, number)
            first, used = number, 0
        used += cell
    yield slice(first, len(cells))


def _row(title: str, row: Sequence[str], first: int, cells: Sequence[int]) -> str:
    return (f"{title:<{first}}" + "".join(map(str.rjust, row, cells))).rstrip()


def _compared_rows(
    report: "PerplexityReport", methods: "Sequence[MethodScore]"
) -> "Iterator[tuple[str, list[str]]]":
    """The rows of a comparison, each with its title."""
    yield "position", [score.method["name"] for score in methods]
    tables = [{b.start: b for b in _fewer(score.score.curve)} for score in methods]
    for start in sorted({start for table in tables for start in table}):
        row = [table.get(start) for table in tables]
        bucket = next(bucket for bucket in row if bucket is not None)
        yield (
            _place(bucket, report),
            ["-" if bucket is None else f"{bucket.nll:.4f}" for bucket in row],
        )
    yield "", []
    scores = [score.score for score in methods]
    yield "nats/token", [f"{score.nll:.4f}" for score in scores]
    yield "perplexity", [_number(score.ppl) for score in scores]
    yield "± standard error", [_number(score.ppl_se) for score in scores]
    yield "bits/byte", [_number(score.bits_per_byte) for score in scores]
    yield "tokens", [f"{score.tokens:,}" for score in scores]
    if any(score.documented_nll is not None for score in methods):
        documented = [score.documented_nll for score in methods]
        yield "documented ppl", ["-" if nll is None else _ppl(nll) for nll in documented]


def _sources(report: "PerplexityReport", width: int) -> str:
    """A row for each source: all figures of one method, or the loss by each of several."""
    alone = report.methods[0] if len(report.methods) == 1 else None
    titles = ["tokens", *(score.method["name"] for score in report.methods)]
    if alone is not None:
        titles = ["tokens", "nats/token", "perplexity", "bits/byte"]
    rows: list[tuple[str, list[str]]] = []
    names = [*(one_line(source.origin) for source in report.sources), _HEADERS]
    parts = list(zip(*([*m.sources, m.headers] for m in report.methods), strict=True))
    left = 0
    for name, found in zip(names, parts, strict=True):
        known = next((part for part in found if part is not None), None)
        if known is None and name == _HEADERS:
            continue
        if len(rows) >= _MOST_SOURCES and name != _HEADERS:
            left += 1
            continue
        cells = ["-" if part is None else f"{part.nll:.4f}" for part in found]
        if alone is not None:
            cells = ["-"] * 3 if known is None else _figures(known)
        rows.append((name, [f"{known.tokens:,}" if known is not None else "0", *cells]))
    sizes = [
        max(len(title), *(len(row[n]) for _, row in rows)) + 2 for n, title in enumerate(titles)
    ]
    longest = max(len("source"), *(len(name) for name, _ in rows))
    label = min(longest, max(_LEAST_NAME, width - sum(sizes)))
    texts = []
    for block in _blocks(sizes, width - label):
        lines = [_row("source", titles[block], label, sizes[block])]
        for name, row in rows:
            shown = name if len(name) <= label else "..." + name[3 - label :]
            lines.append(_row(shown, row[block], label, sizes[block]))
        texts.append("".join(f"{line}\n" for line in lines))
    more = f"... and {left:,} more sources (see --csv and --json)\n" if left else ""
    return "\n".join(texts) + more


def _figures(score: "Score") -> list[str]:
    return [f"{score.nll:.4f}", _number(score.ppl), _number(score.bits_per_byte)]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 1e6 else f"{value:.3g}"


def _ppl(nll: float) -> str:
    from lmi_cli.tasks.losses import perplexity_of

    return _number(perplexity_of(nll))


def _end(bucket: "Bucket", report: "PerplexityReport") -> int:
    """Where a step ends, or the text within it."""
    longest = max(source.tokens for source in report.sources) if report.each else report.tokens
    return min(bucket.end, longest)


def _place(bucket: "Bucket", report: "PerplexityReport") -> str:
    return f"{bucket.start:>9,}-{_end(bucket, report) - 1:<9,}"


def _fewer(curve: "Sequence[Bucket]") -> "list[Bucket]":
    """A curve of at most ``_MOST_STEPS`` steps, each of as many as are needed for that."""
    from lmi_cli.tasks.losses import Bucket

    size = 1
    while math.ceil(len(curve) / size) > _MOST_STEPS:
        size *= 2
    merged = []
    for first in range(0, len(curve), size):
        steps = curve[first : first + size]
        tokens = sum(step.tokens for step in steps)
        nll = math.fsum(step.nll * step.tokens for step in steps) / tokens
        merged.append(Bucket(steps[0].start, steps[-1].end, nll, tokens))
    return merged
