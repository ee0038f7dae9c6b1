"""Heat maps."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmi_cli.figures.data import HeatMap, percent_text, plain, shortened
from lmi_cli.figures.files import drawing, require_figure, save
from lmi_cli.figures.style import HEAT, Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap

_CELL_INCHES = (0.46, 0.32)
_CHAR_INCHES = 0.085  # of a name beside an axis, about
_LEAST_INCHES = (2.2, 1.6)  # of a panel, for its title and the name of the scale
_MOST_INCHES = 11.0  # of all panels beside each other
_NAME_CHARS = 24
_SHADES = 64


def heat_maps(
    path: Path,
    maps: Sequence[HeatMap],
    *,
    row_label: str,
    column_label: str,
    value_label: str,
    theme: str = "light",
) -> None:
    """Draw heat maps side by side into a file, with one scale of colours from 0 to 100 %.

    Args:
        path: The file: .png, .svg or .pdf.
        maps: The tables; those that have no room beside the others stand below them.
        row_label: What rows are.
        column_label: What columns are.
        value_label: What the shares are of, beside the scale.
        theme: ``light`` or ``dark``.

    Raises:
        UsageError: The path's ending or the theme is unknown, or matplotlib is not installed.
        ResourceError: The file cannot be written.
        ValueError: There are no maps.
    """
    require_figure(path, theme)
    colours = theme_named(theme)
    if not maps:
        raise ValueError("there is no heat map to draw")
    widths = [max(_LEAST_INCHES[0], _CELL_INCHES[0] * len(map_.columns)) for map_ in maps]
    heights = [max(_LEAST_INCHES[1], _CELL_INCHES[1] * len(map_.rows)) for map_ in maps]
    across = min(len(maps), max(1, int(_MOST_INCHES / max(widths))))
    down = math.ceil(len(maps) / across)
    beside = max(_longest(map_.rows) for map_ in maps)
    below = max(_longest(map_.columns) for map_ in maps)
    upright = any(
        _longest(map_.columns) + 0.08 > width / len(map_.columns)
        for map_, width in zip(maps, widths, strict=True)
    )
    with drawing(colours):
        import matplotlib
        from matplotlib.figure import Figure

        size = (
            across * (max(widths) + 0.2) + beside + 1.5,
            down * (max(heights) + (below if upright else 0.1) + 1.0),
        )
        figure = Figure(figsize=size)
        panels = figure.subplots(down, across, squeeze=False)
        scale = matplotlib.colormaps[HEAT].resampled(_SHADES).with_extremes(bad=colours.missing)
        drawn = []
        for number, axes in enumerate(panels.flat):
            if number >= len(maps):
                axes.set_visible(False)
                continue
            drawn.append(_draw(axes, maps[number], scale, colours, widths[number], upright))
            same = maps[number].rows == maps[0].rows
            if number % across and same:
                axes.set_yticklabels([])
            if number % across == 0:
                axes.set_ylabel(plain(row_label))
            axes.set_xlabel(plain(column_label))
        bar = figure.colorbar(
            drawn[0], ax=panels.ravel().tolist(), label=plain(value_label), fraction=0.04, pad=0.02
        )
        shares = [0.0, 0.25, 0.5, 0.75, 1.0]
        bar.set_ticks(shares, labels=[f"{100 * share:.0f} %" for share in shares])
        bar.outline.set_visible(False)
        save(figure, path)


def _draw(
    axes: "Axes", map_: HeatMap, scale: "Colormap", theme: Theme, width: float, upright: bool
) -> "QuadMesh":
    """Draw one map: coloured cells with numbers in them, and names, ``upright`` where narrow."""
    values = [[math.nan if value is None else float(value) for value in row] for row in map_.values]
    mesh = axes.pcolormesh(
        values,
        cmap=scale,
        vmin=0.0,
        vmax=1.0,
        edgecolors=theme.background,
        linewidth=1.5,
        clip_on=False,
    )
    axes.invert_yaxis()
    for row, shares in enumerate(values):
        for column, share in enumerate(shares):
            colour = theme.muted
            if not math.isnan(share):
                colour = _on(scale(min(max(share, 0.0), 1.0))[:3])
            axes.text(
                column + 0.5,
                row + 0.5,
                percent_text(share),
                ha="center",
                va="center",
                fontsize=9,
                color=colour,
            )
    names = [shortened(plain(name), _NAME_CHARS) for name in map_.columns]
    axes.set_xticks([n + 0.5 for n in range(len(names))], names)
    if upright:
        axes.tick_params(axis="x", labelrotation=90)
    names = [shortened(plain(name), _NAME_CHARS) for name in map_.rows]
    axes.set_yticks([n + 0.5 for n in range(len(names))], names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(
        "\n".join(textwrap.wrap(plain(map_.title), max(16, int(width * 9)))), fontsize=11
    )
    return mesh


def _longest(names: Sequence[str]) -> float:
    """Inches that the longest of some names takes, about."""
    return _CHAR_INCHES * min(_NAME_CHARS, max(map(len, names)))


def _on(colour: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with a colour (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#FFFFFF"
