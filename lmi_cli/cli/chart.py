"""Lines and heat maps as text, for a terminal."""

import math
from collections.abc import Sequence

from lmi_cli.cli.console import one_line
from lmi_cli.figures.data import HeatMap, Line, axis_texts, number_text, percent_text

_SIGNS = "o+x*#@%&"


def line_chart_text(
    lines: Sequence[Line], *, width: int, height: int, x_label: str, y_label: str, colour: bool
) -> str:
    """Lines over a common axis; each is drawn with a character of its own.

    Args:
        lines: The lines.
        width: Columns of the whole chart.
        height: Rows of the area of the lines.
        x_label: Name of the axis below.
        y_label: Name of the axis on the left.
        colour: Whether the terminal shows colours.

    Returns:
        The chart, each line of text ended.
    """
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True)]
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return f"{one_line(y_label)}: no finite values\n"
    left, right = min(x for x, _ in finite), max(x for x, _ in finite)
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    names = [number_text(round(value, 4)) for value in (low, high)]
    margin = max(map(len, names)) + 1
    area = max(10, width - margin - 1)
    grid = [[" "] * area for _ in range(height)]
    for number, line in enumerate(lines):
        for x, y in zip(line.x, line.y, strict=True):
            if math.isfinite(y):
                column = round((x - left) / ((right - left) or 1) * (area - 1))
                row = round((high - y) / ((high - low) or 1) * (height - 1))
                grid[row][column] = _SIGNS[number % len(_SIGNS)]
    text = [one_line(y_label)]
    for number, cells in enumerate(grid):
        name = names[1] if number == 0 else names[0] if number == height - 1 else ""
        text.append(f"{name:>{margin - 1}} |" + "".join(cells).rstrip())
    first, last = axis_texts([left, right])
    text.append(" " * margin + "+" + "-" * area)
    text.append(" " * (margin + 1) + first + f"{last:>{area - len(first)}}")
    text.append(f"{one_line(x_label):>{width}}")
    text += [
        f"{_SIGNS[number % len(_SIGNS)]} {one_line(line.name)}" for number, line in enumerate(lines)
    ]
    return "".join(f"{line}\n" for line in text)


def heat_map_text(
    map_: HeatMap, *, width: int, row_label: str, column_label: str, colour: bool
) -> str:
    """A table of shares in percent, the cells coloured where the terminal shows colours.

    Args:
        map_: The table.
        width: Columns of the terminal.
        row_label: What rows are.
        column_label: What columns are.
        colour: Whether the terminal shows colours.

    Returns:
        The table, each line of text ended.
    """
    names = [one_line(name) for name in map_.rows]
    margin = max(len(one_line(row_label)), *map(len, names))
    columns = [one_line(name) for name in map_.columns]
    cell = max(4, *map(len, columns)) + 1
    text = [
        one_line(map_.title),
        " " * margin + f" {one_line(column_label)}",
        f"{one_line(row_label):>{margin}}" + "".join(f"{name:>{cell}}" for name in columns),
    ]
    for name, row in zip(names, map_.values, strict=True):
        cells = "".join(f"{percent_text(value) or '-':>{cell}}" for value in row)
        text.append(f"{name:>{margin}}{cells}")
    return "".join(f"{line}\n" for line in text)
