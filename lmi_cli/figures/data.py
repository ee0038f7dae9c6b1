"""What is drawn, in a file or in a terminal, and how its numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the line shows, such as a method.
        x: Positions, in ascending order.
        y: One value a position. The line is broken where it is nan; an infinite value lies beyond
            the edge of the chart.

    Raises:
        ValueError: There are not as many values as positions.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{self.name}: {len(self.x)} positions, but {len(self.y)} values")


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A table of shares, each of which is shown as a colour and in percent.

    Attributes:
        title: What distinguishes it from others beside it, such as a method.
        rows: The name of each row, from above.
        columns: The name of each column, from the left.
        values: A share from 0 to 1 for each row and column; None was not measured.

    Raises:
        ValueError: The values are not a table of these rows and columns.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]

    def __post_init__(self) -> None:
        sizes = [len(row) for row in self.values]
        if sizes != [len(self.columns)] * len(self.rows):
            raise ValueError(
                f"{self.title}: expected {len(self.rows)} rows of {len(self.columns)} values"
            )


def number_text(value: float) -> str:
    """A number with commas between thousands, and no more decimals than it has."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.6g}"


def axis_texts(ticks: Sequence[float]) -> list[str]:
    """The numbers beside an axis: in thousands (k) if the largest has five digits or more."""
    finite = [value for value in ticks if math.isfinite(value)]
    if max(map(abs, finite), default=0.0) < 10_000:
        return [number_text(value) for value in ticks]
    return ["0" if value == 0 else f"{number_text(value / 1000)}k" for value in ticks]


def percent_text(value: float | None) -> str:
    """A share in whole percent, without the sign; empty if it was not measured."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.0f}"
