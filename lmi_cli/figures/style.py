"""The one style of all figures: colours of two themes, line styles, markers and type.

Lines have the colours of Okabe and Ito, which people with any kind of colour vision tell apart
(https://jfly.uni-koeln.de/color/), and differ in dashes and markers as well, so that they can
be told apart in black and white. Heat maps use cividis (Nuñez et al. 2018, PLOS ONE 13(7)).
"""

from dataclasses import dataclass
from typing import Any

from lmi_cli.errors import UsageError

OKABE_ITO = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
}
HEAT = "cividis"
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1.2, 1.4)),
    (0, (6, 2, 1.2, 2)),
    (0, (9, 3)),
    (0, (3, 1.5, 1, 1.5, 1, 1.5)),
    (0, (2.5, 2.5)),
    (0, (9, 2, 2.5, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure.

    Attributes:
        background: Behind everything.
        text: Of titles and names.
        muted: Of the numbers beside axes.
        grid: Of the lines behind the data.
        missing: Of the cells of a heat map that were not measured.
        lines: In the order in which lines take them.
    """

    background: str
    text: str
    muted: str
    grid: str
    missing: str
    lines: tuple[str, ...]


_COLOURS = OKABE_ITO
THEMES = {
    "light": Theme(
        background="#FFFFFF",
        text="#1F2328",
        muted="#59636E",
        grid="#DDE1E6",
        missing="#EEF0F2",
        lines=(
            *(_COLOURS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky")),
            "#000000",
        ),
    ),
    # The backgrounds are those of GitHub's pages, the usual place of these figures.
    "dark": Theme(
        background="#0D1117",
        text="#F0F6FC",
        muted="#9198A1",
        grid="#2B313A",
        missing="#1B2129",
        lines=(
            *(
                _COLOURS[name]
                for name in ("sky", "orange", "green", "purple", "yellow", "vermilion")
            ),
            "#FFFFFF",
        ),
    ),
}


def theme_named(name: str) -> Theme:
    """A theme.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in THEMES:
        raise UsageError(f"unknown value {name!r} for --theme", hint="one of " + ", ".join(THEMES))
    return THEMES[name]


def settings(theme: Theme) -> dict[str, Any]:
    """Settings of matplotlib for a figure; the same figure gives the same bytes."""
    return {
        "figure.facecolor": theme.background,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1,
        "figure.constrained_layout.h_pad": 0.08,
        "savefig.facecolor": theme.background,
        "savefig.dpi": 160,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.text,
        "text.parse_math": False,  # a dollar sign is one
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "font.family": ["DejaVu Sans"],  # comes with matplotlib
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "svg.fonttype": "path",
        "svg.hashsalt": "lmi",
        "pdf.fonttype": 42,  # TrueType, which can be searched and edited
    }
