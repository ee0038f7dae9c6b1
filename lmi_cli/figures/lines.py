"""Charts of lines."""

from collections.abc import Sequence
from pathlib import Path

from lmi_cli.figures.data import Line, axis_texts
from lmi_cli.figures.files import drawing, require_figure, save
from lmi_cli.figures.style import DASHES, MARKERS, theme_named


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
    """Draw lines over a common axis into a file.

    Raises:
        UsageError: The path's ending or the theme is unknown, or matplotlib is not installed.
        ResourceError: The file cannot be written.
    """
    require_figure(path)
    colours = theme_named(theme)
    with drawing(colours):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 4.5))
        axes = figure.subplots()
        for number, line in enumerate(lines):
            axes.plot(
                line.x,
                line.y,
                label=line.name,
                color=colours.lines[number % len(colours.lines)],
                linestyle=DASHES[number % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)],
                markevery=max(1, len(line.x) // 12),
            )
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if y_limits is not None:
            axes.set_ylim(*y_limits)
        axes.xaxis.set_major_formatter(lambda value, _: axis_texts([value])[0])
        figure.legend(loc="outside right center")
        save(figure, path)
