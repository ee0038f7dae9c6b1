"""Charts of lines."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lmi_cli.figures.data import (
    X_TICKS,
    Extent,
    Line,
    axis_texts,
    label_of,
    plain,
    shortened,
    x_extent,
    y_extent,
)
from lmi_cli.figures.files import drawing, require_figure, save
from lmi_cli.figures.style import DASHES, MARKERS, Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (8.0, 4.5)
_TITLE_CHARS, _LABEL_CHARS = 70, 26
_MOST_MARKERS = 10
# What a line of a label takes, as a share of the height of the axes.
_LABEL_HEIGHT = 0.052


def line_chart(
    path: Path,
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_limits: tuple[float, float] | None = None,
    theme: str = "light",
) -> None:
    """Draw lines over a common axis into a file, each named where it ends.

    A line that leaves the chart at the top is marked there, and its name says how far it goes.

    Args:
        path: The file: .png, .svg or .pdf.
        lines: The lines; eight are told apart by dashes and markers alone.
        title: Stands above the chart.
        x_label: Name of the axis below.
        y_label: Name of the axis on the left.
        y_limits: Smallest and largest value to show; None shows all, except those that are fifty
            times the median and more.
        theme: ``light`` or ``dark``.

    Raises:
        UsageError: The path's ending or the theme is unknown, or matplotlib is not installed.
        ResourceError: The file cannot be written.
        ValueError: There are no lines, or the limits are in the wrong order.
    """
    require_figure(path, theme)
    colours = theme_named(theme)
    if not lines:
        raise ValueError("there is no line to draw")
    across, up = x_extent(lines), y_extent(lines, y_limits)
    with drawing(colours):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_SIZE_INCHES)
        axes = figure.subplots()
        edge = 0.015 * (across.high - across.low)
        axes.set_xlim(across.low - edge, across.high + edge)
        axes.set_ylim(up.low, up.high)
        for number, line in enumerate(lines):
            _draw(axes, number, line, up, colours, number / len(lines))
        _name(axes, lines, across, up, colours)
        axes.set_title("\n".join(textwrap.wrap(plain(title), _TITLE_CHARS)))
        axes.set_xlabel(plain(x_label))
        axes.set_ylabel(plain(y_label))
        ticks = across.ticks(X_TICKS)
        axes.set_xticks(ticks, axis_texts(ticks, thousands=True))
        ticks = up.ticks(7)
        axes.set_yticks(ticks, axis_texts(ticks))
        save(figure, path)


def _draw(axes: "Axes", number: int, line: Line, up: Extent, theme: Theme, offset: float) -> None:
    """Draw a line; its markers are shifted by a share of their distance, the offset."""
    colour = theme.lines[number % len(theme.lines)]
    beyond = up.high + 10 * (up.high - up.low)
    below = up.low - 10 * (up.high - up.low)
    values = [y if math.isnan(y) else min(max(y, below), beyond) for y in line.y]
    every = max(1, math.ceil(len(values) / _MOST_MARKERS))
    axes.plot(
        line.x,
        values,
        color=colour,
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)],
        # Lines that coincide have their markers at different positions.
        markevery=(int(offset * every), every),
        zorder=2 + number / 100,
    )
    for (x, y), (next_x, next_y) in pairwise(zip(line.x, values, strict=True)):
        if y <= up.high < next_y:  # not where one is nan
            axes.plot(
                [x + (next_x - x) * (up.high - y) / (next_y - y)],
                [up.high],
                color=colour,
                marker="^",
                markersize=8,
                clip_on=False,
                zorder=4,
            )


def _name(axes: "Axes", lines: Sequence[Line], across: Extent, up: Extent, theme: Theme) -> None:
    """Write the name of each line to the right of the axes, as near its end as there is room."""
    labels = ["\n".join(_wrapped(label_of(line, up))) for line in lines]
    ends = [line.points()[-1:] for line in lines]
    targets = [up.share(end[0][1]) if end else 0.0 for end in ends]
    heights = [_LABEL_HEIGHT * (label.count("\n") + 1.2) for label in labels]
    for number, place in enumerate(spread(targets, heights)):
        colour = theme.lines[number % len(theme.lines)]
        (last, value), *_ = ends[number] or [(across.low, 0.0)]
        if across.share(last) > 0.95 and up.low <= value <= up.high:
            axes.plot(
                [across.share(last) - 0.005, 1.025],
                [targets[number], place],
                transform=axes.transAxes,
                color=theme.muted,
                linewidth=0.6,
                clip_on=False,
            )
        axes.plot(
            [1.035, 1.07, 1.105],
            [place] * 3,
            transform=axes.transAxes,
            color=colour,
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
            markevery=[1],
            clip_on=False,
        )
        axes.text(1.12, place, labels[number], transform=axes.transAxes, va="center", fontsize=9)


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(shortened(label, 2 * _LABEL_CHARS - 4), _LABEL_CHARS)


def spread(targets: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres of labels that do not overlap, each as near its target as the others let it.

    Args:
        targets: Where labels would be best, from 0 to 1.
        heights: Their heights.

    Returns:
        The centre of each label. All labels lie between 0 and 1 if they have room there.
    """
    order = sorted(range(len(targets)), key=lambda number: (targets[number], -number))
    blocks: list[tuple[list[int], float]] = []  # labels that touch, and their common bottom
    for number in order:
        members, bottom = [number], targets[number] - heights[number] / 2
        while True:
            size = sum(heights[member] for member in members)
            bottom = max(0.0, min(bottom, 1.0 - size))
            if not blocks or blocks[-1][1] + sum(heights[m] for m in blocks[-1][0]) <= bottom:
                break
            members = blocks.pop()[0] + members
            below = 0.0
            wanted = []
            for member in members:
                wanted.append(targets[member] - heights[member] / 2 - below)
                below += heights[member]
            bottom = sum(wanted) / len(wanted)
        blocks.append((members, bottom))
    centres = [0.0] * len(targets)
    for members, bottom in blocks:
        for member in members:
            centres[member] = bottom + heights[member] / 2
            bottom += heights[member]
    return centres
