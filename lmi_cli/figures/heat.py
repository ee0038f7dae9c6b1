"""Heat maps."""

import math
from collections.abc import Sequence
from pathlib import Path

from lmi_cli.figures.data import HeatMap, percent_text
from lmi_cli.figures.files import drawing, require_figure, save
from lmi_cli.figures.style import HEAT, theme_named


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

    Raises:
        UsageError: The path's ending or the theme is unknown, or matplotlib is not installed.
        ResourceError: The file cannot be written.
    """
    require_figure(path)
    colours = theme_named(theme)
    with drawing(colours):
        import matplotlib
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.0 * len(maps) + 1, 4.5))
        scale = matplotlib.colormaps[HEAT].with_extremes(bad=colours.missing)
        panels = figure.subplots(1, len(maps), squeeze=False)[0]
        images = []
        for axes, map_ in zip(panels, maps, strict=True):
            table = [[math.nan if v is None else v for v in row] for row in map_.values]
            images.append(axes.imshow(table, cmap=scale, vmin=0.0, vmax=1.0, aspect="auto"))
            for i, row in enumerate(map_.values):
                for j, value in enumerate(row):
                    light = value is not None and value > 0.5
                    axes.text(
                        j, i, percent_text(value), ha="center", va="center",
                        color="#000000" if light else "#FFFFFF",
                    )  # fmt: skip
            axes.set_xticks(range(len(map_.columns)), map_.columns)
            axes.set_yticks(range(len(map_.rows)), map_.rows)
            axes.grid(visible=False)
            axes.set_title(map_.title)
            axes.set_xlabel(column_label)
        panels[0].set_ylabel(row_label)
        figure.colorbar(images[0], ax=list(panels), label=value_label)
        save(figure, path)
