"""Figures in one style: lines over a quantity, and heat maps, as PNG, SVG or PDF files.

Knows neither model nor terminal, and imports none of our packages but ``disk``. Matplotlib, which
draws them, is imported only when a figure is made (``pip install 'lmi[plot]'``).
"""

from lmi_cli.figures.data import HeatMap, Line
from lmi_cli.figures.files import require_figure
from lmi_cli.figures.heat import heat_maps
from lmi_cli.figures.lines import line_chart
from lmi_cli.figures.style import THEMES

__all__ = ["THEMES", "HeatMap", "Line", "heat_maps", "line_chart", "require_figure"]
