"""Lines and heat maps as text, for a terminal of any width, with colours and without.

Without a library: those that draw text keep one figure for the whole process, and show only one of
several lines that coincide, as those of good methods do. Here each has a character of its own, and
where lines coincide their characters take turns.
"""

import math
from collections.abc import Iterator, Sequence

from lmi_cli.cli.console import can_show, one_line
from lmi_cli.figures.data import (
    X_TICKS,
    Extent,
    HeatMap,
    Line,
    axis_texts,
    label_of,
    percent_text,
    shortened,
    x_extent,
    y_extent,
)

_SIGNS = "o+x*#@%&abcdefgh"
_LEAST_AREA = 20  # columns of the area of the lines
_TICK_EVERY = 3  # rows
_NAME_CHARS = 24
_BARS = " ▁▂▃▄▅▆▇█"
# Of 256 colours, those near the colours of figures that can be read on light and dark backgrounds.
_LINE_COLOURS = (39, 208, 36, 175, 178, 67, 161, 244)
# Nine steps of cividis, of 256 colours, ever lighter; on the first four, white is read better.
_HEAT_COLOURS = (17, 18, 60, 242, 244, 101, 144, 186, 227)
_WHITE_ON = 4
_WHITE, _BLACK = 231, 16


def line_chart_text(
    lines: Sequence[Line],
    *,
    width: int,
    height: int,
    x_label: str,
    y_label: str,
    colour: bool,
    y_limits: tuple[float, float] | None = None,
) -> str:
    """Lines over a common axis; each is drawn with a character of its own, named below.

    Where a line leaves the chart stands ``^`` or ``v``, and its name says how far up it goes.

    Args:
        lines: The lines.
        width: Columns of the whole chart; the smallest is about 30.
        height: Rows of the area of the lines, at least 2.
        x_label: Name of the axis below.
        y_label: Name of the axis on the left.
        colour: Whether the terminal shows colours.
        y_limits: Smallest and largest value to show, as in :func:`lmi_cli.figures.line_chart`.

    Returns:
        The chart, each line of text ended; with colours, write it by
        ``Output.write(text, coloured=True)``.
    """
    across, up = x_extent(lines), y_extent(lines, y_limits)
    ticks = up.ticks(max(2, height // _TICK_EVERY + 1))
    names = dict(zip((_row(up, tick, height) for tick in ticks), axis_texts(ticks), strict=True))
    margin = max(map(len, names.values()))
    area = max(_LEAST_AREA, width - margin - 2)
    grid = [[" "] * area for _ in range(height)]
    found: dict[tuple[int, int], list[str]] = {}
    for number, line in enumerate(lines):
        for row, column, mark in _path(line, across, up, area, height):
            sign = _painted(mark or _sign(number), _colour(number), colour)
            found.setdefault((row, column), []).append(sign)
    for (row, column), signs in found.items():
        grid[row][column] = signs[column % len(signs)]
    side, bottom, corner, joint = "│─└┤" if can_show("│─└┤") else "|-++"
    text = [_fitted(y_label, width)]
    for row, cells in enumerate(grid):
        edge = joint if row in names else side
        text.append(f"{names.get(row, ''):>{margin}} {edge}{''.join(cells)}")
    text.append(f"{'':{margin}} {corner}{bottom * area}")
    text.append(" " * (margin + 2) + _numbers(across, area))
    text.append(_right(_fitted(x_label, width), margin + 2 + area))
    labels = [_fitted(label_of(line, up), width - 4) for line in lines]
    return _ended([*text, *_legend(labels, width, colour)])


def heat_map_text(
    map_: HeatMap, *, width: int, row_label: str, column_label: str, colour: bool
) -> str:
    """A table of shares in percent; columns that have no room beside the others stand below them.

    Without colours, a bar beside each number is as high as the share, where it can be shown.

    Args:
        map_: The table.
        width: Columns of the terminal.
        row_label: What rows are.
        column_label: What columns are.
        colour: Whether the terminal shows colours.

    Returns:
        The table, each line of text ended; with colours, write it by
        ``Output.write(text, coloured=True)``.
    """
    rows = [_fitted(name, _NAME_CHARS) for name in map_.rows]
    columns = [_fitted(name, _NAME_CHARS) for name in map_.columns]
    label = _fitted(row_label, _NAME_CHARS)
    margin = max(map(_width, (label, *rows)))
    cell = max(5, *(_width(name) + 2 for name in columns))
    most = max(1, (width - margin) // cell)
    text = [_fitted(map_.title, width)]
    for first in range(0, len(columns), most):
        part = slice(first, first + most)
        text.append(" " * (margin + 1) + _fitted(column_label, width - margin - 1))
        heads = (_right(name, cell - 1) + " " for name in columns[part])
        text.append(label + " " * (margin - _width(label)) + "".join(heads))
        for name, shares in zip(rows, map_.values, strict=True):
            cells = (_heat_cell(share, cell, colour) for share in shares[part])
            text.append(_right(name, margin) + "".join(cells))
    return _ended(text)


def _path(
    line: Line, across: Extent, up: Extent, area: int, height: int
) -> Iterator[tuple[int, int, str]]:
    """The row and column of each cell of a line, and the mark where it leaves the chart."""
    before: int | None = None
    for column, value in enumerate(_sampled(line, across, area)):
        if value is None:
            before = None
            continue
        row = -1 if value > up.high else height if value < up.low else _row(up, value, height)
        # A steep line fills the rows that it passes on the way from the column before.
        step = 1 if before is None or row > before else -1
        passed = range(row if before in (None, row) else before + step, row + step, step)
        edge = min(max(row, 0), height - 1)
        yield from ((r, column, "") for r in passed if 0 <= r < height and r != edge)
        if row == edge:
            yield row, column, ""
        elif row != before:
            yield edge, column, "^" if row < 0 else "v"
        before = row


def _sampled(line: Line, across: Extent, area: int) -> list[float | None]:
    """The value of a line in each column; None where it has none."""
    values: list[float | None] = [None] * area
    before: tuple[int, float] | None = None
    for x, y in zip(line.x, line.y, strict=True):
        if math.isnan(y):
            before = None
            continue
        column = round(across.share(x) * (area - 1))
        start, value = before or (column, y)
        for between in range(start + 1, column):
            part = (between - start) / (column - start)
            rise = y - value
            values[between] = value + part * rise if math.isfinite(rise) else y
        values[column] = y
        before = column, y
    return values


def _row(up: Extent, value: float, height: int) -> int:
    return round((1 - up.share(value)) * (height - 1))


def _numbers(across: Extent, area: int) -> str:
    """The numbers below the axis, each centred below its place, as many as have room."""
    ticks = across.ticks(min(X_TICKS, max(2, area // 10)))
    text = ""
    for tick, name in zip(ticks, axis_texts(ticks, thousands=True), strict=True):
        place = round(across.share(tick) * (area - 1)) - len(name) // 2
        place = max(0, min(place, area - len(name)))
        if not text or place > len(text):
            text = f"{text:{place}}{name}"
    return text


def _legend(labels: Sequence[str], width: int, colour: bool) -> Iterator[str]:
    """The characters of lines and their names, as many beside each other as have room."""
    cell = max(map(_width, labels)) + 4
    across = max(1, (width + 2) // cell)
    for first in range(0, len(labels), across):
        named = (
            _painted(_sign(number), _colour(number), colour)
            + f" {labels[number]}{' ' * (cell - 2 - _width(labels[number]))}"
            for number in range(first, min(first + across, len(labels)))
        )
        yield "".join(named)


def _heat_cell(share: float | None, cell: int, colour: bool) -> str:
    number = percent_text(share)
    known = share is not None and not math.isnan(share)
    step = round(min(max(share, 0.0), 1.0) * (len(_BARS) - 1)) if known and share else 0
    if colour and known:
        front = _WHITE if step < _WHITE_ON else _BLACK
        return f" \x1b[38;5;{front};48;5;{_HEAT_COLOURS[step]}m{number:>{cell - 2}} \x1b[0m"
    bar = _BARS[step] if known and can_show(_BARS) else " "
    return f"{number:>{cell - 1}}{bar}"


def _fitted(text: str, most: int) -> str:
    """A name that takes at most so many columns and contains nothing that a terminal acts on."""
    text, gap = one_line(text), "…" if can_show("…") else ".."
    for chars in range(most, 0, -1):
        if _width(short := shortened(text, chars, gap)) <= most:
            return short
    return ""


def _width(text: str) -> int:
    """Columns that a text takes; characters of some scripts take two."""
    from rich.cells import cell_len

    return cell_len(text)


def _right(text: str, width: int) -> str:
    return " " * (width - _width(text)) + text


def _sign(number: int) -> str:
    return _SIGNS[number % len(_SIGNS)]


def _colour(number: int) -> int:
    return _LINE_COLOURS[number % len(_LINE_COLOURS)]


def _painted(sign: str, code: int, colour: bool) -> str:
    return f"\x1b[38;5;{code}m{sign}\x1b[0m" if colour else sign


def _ended(lines: Sequence[str]) -> str:
    return "".join(f"{line.rstrip(' ')}\n" for line in lines)
