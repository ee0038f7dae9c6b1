"""What is drawn, in a file or in a terminal, and what both show beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Values larger than this many times the median are off the chart, unless limits are given: the
# perplexity of a model that fails may be a million, and would leave all else on one line.
_EXPLODED = 50.0
X_TICKS = 8
"""Most numbers below a chart."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the line shows, such as a method.
        x: Positions, in ascending order.
        y: One value a position. The line is broken where it is nan, and runs off the chart where it
            is infinite.

    Raises:
        ValueError: There are not as many values as positions.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{self.name}: {len(self.x)} positions, but {len(self.y)} values")

    def points(self) -> list[tuple[float, float]]:
        """Positions and values, without those that are nan."""
        pairs = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and not math.isnan(y)]


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
        if not sizes or not self.columns or sizes != [len(self.columns)] * len(self.rows):
            raise ValueError(
                f"{self.title}: expected {len(self.rows)} rows of {len(self.columns)} values"
            )


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of an axis that a chart shows.

    Attributes:
        low: Its lower end.
        high: Its upper end, which is larger.
    """

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value lies: from 0 at the lower end to 1 at the upper; beyond them, the end."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """At most so many round numbers in it (but at least two where they fit), evenly spaced."""
        rough = (self.high - self.low) / max(1, most - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power, 20 * power):
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [number * step + 0.0 for number in range(first, last + 1)]


def x_extent(lines: Sequence[Line]) -> Extent:
    """The positions of all lines, from 0 and to a round number where these are near."""
    extent = _extent([x for line in lines for x, _ in line.points()])
    low = 0.0 if 0 < extent.low <= 0.25 * extent.high else extent.low
    ticks = Extent(low, extent.high + 0.03 * (extent.high - low)).ticks(X_TICKS)
    return Extent(low, max(extent.high, ticks[-1]) if ticks else extent.high)


def y_extent(lines: Sequence[Line], limits: tuple[float, float] | None = None) -> Extent:
    """The values that a chart shows: those within limits, or all, less those far beyond the rest.

    Raises:
        ValueError: The lower limit is not below the upper one.
    """
    if limits is not None:
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"limits {low}, {high}: expected a lower and an upper one")
        return Extent(low, high)
    import statistics  # takes long, and every command imports this module

    values = [y for line in lines for _, y in line.points() if math.isfinite(y)]
    middle = statistics.median(values) if values else 0.0
    if middle > 0 and max(values) > _EXPLODED * middle:
        values = [y for y in values if y <= 4 * middle]
    extent = _extent(values)
    margin = (extent.high - extent.low) * 0.05
    # Room below the smallest value, but not below zero for what is never negative.
    low = extent.low - margin
    return Extent(0.0 if low < 0 <= extent.low else low, extent.high + margin)


def label_of(line: Line, shown: Extent) -> str:
    """The name of a line, and how far it goes where that is beyond what is shown."""
    values = [y for _, y in line.points()]
    if not values:
        return f"{plain(line.name)} (no values)"
    largest = max(values)
    if largest <= shown.high:
        return plain(line.name)
    digits = ",.0f" if 1000 <= largest < 1e7 else ".3g"
    reach = "infinite" if math.isinf(largest) else f"up to {largest:{digits}}"
    return f"{plain(line.name)} ({reach})"


def axis_texts(ticks: Sequence[float], *, thousands: bool = False) -> list[str]:
    """The numbers beside an axis, with commas between thousands and equally many decimals.

    Perplexities of a model that fails may have hundreds of digits; such are in powers of ten.

    Args:
        ticks: The numbers.
        thousands: Write them in thousands (k) if the largest has five digits or more, as is usual
            for numbers of tokens.
    """
    largest = max(map(abs, ticks), default=0.0)
    if thousands and largest >= 10_000:
        return [f"{tick / 1000:,.6g}k" if tick else "0" for tick in ticks]
    if largest >= 1e10:
        return [f"{tick:.3g}" for tick in ticks]
    scale = largest or 1.0
    for decimals in range(7):
        if all(abs(round(tick, decimals) - tick) < 1e-6 * scale for tick in ticks):
            break
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def percent_text(value: float | None) -> str:
    """A share in whole percent, without the sign; a hyphen if it was not measured."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f}"


def plain(text: str) -> str:
    """A name on one line, without characters that act instead of being shown."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def shortened(text: str, most: int, gap: str = "…") -> str:
    """A name of at most so many characters; a longer one has a gap in its middle."""
    if len(text) <= most:
        return text
    rest = max(0, most - len(gap))
    return f"{text[: rest - rest // 2]}{gap}{text[len(text) - rest // 2 :]}"[:most]


def _extent(values: Sequence[float]) -> Extent:
    """From the smallest to the largest; a little on both sides of a single one."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return Extent(low, high)
    margin = 0.1 * abs(low) or 1.0
    return Extent(low - margin, high + margin)
