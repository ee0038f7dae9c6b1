"""Charts in a terminal: as wide as it is, with colours and without, in any encoding."""

import io
import math
import re

import pytest

from lmi_cli.cli import console
from lmi_cli.cli.chart import heat_map_text, line_chart_text
from lmi_cli.figures import HeatMap, Line

POSITIONS = list(range(1024, 100_000, 2048))
FLAT = [3.2] * len(POSITIONS)
FULL = [3.2 + max(0, at - 3) * 0.3 for at in range(len(POSITIONS))]
LINES = [Line(n, POSITIONS, FLAT) for n in ("lm-infinite", "truncate")]
LINES.append(Line("full", POSITIONS, FULL))
GRID = HeatMap("passages", ["0 %", "50 %"], ["4k", "8k", "16k"], [[1, 0.5, None], [0, 0.33, 1.0]])
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def chart(lines: list[Line], width: int = 60, *, colour: bool = False, height: int = 8) -> str:
    names = {"x_label": "position", "y_label": "nats/token"}
    return line_chart_text(lines, width=width, height=height, colour=colour, **names)


def heat(width: int = 60, *, colour: bool = False, grid: HeatMap = GRID) -> str:
    names = {"row_label": "depth", "column_label": "tokens"}
    return heat_map_text(grid, width=width, colour=colour, **names)


def test_names_of_columns_do_not_touch_that_of_the_rows() -> None:
    grid = HeatMap("passages", ["0 %"], ["16,384", "32,768"], [[1, 0]])
    assert heat(grid=grid).splitlines()[2].split() == ["depth", "16,384", "32,768"]


def test_a_chart_as_it_is_shown() -> None:
    line = Line("full", [0, 10_000, 20_000, 30_000, 40_000], [3, 3, 4, 6, 6])
    text = line_chart_text(
        [line, Line("flat", line.x, [3, 3, 3, 3, 3])],
        width=48, height=7, x_label="position", y_label="nats/token", colour=False,
    )  # fmt: skip
    assert text.splitlines() == [
        "nats/token",
        "6 ┤                                 oooooooooooo",
        "  │                              ooo",
        "  │                           ooo",
        "  │                        ooo",
        "4 ┤                   ooooo",
        "  │             oooooo",
        "  │o+o+o+o+o+o+o++++++++++++++++++++++++++++++++",
        "  └─────────────────────────────────────────────",
        "   0                    20k                  40k",
        "                                        position",
        "o full  + flat",
    ]


def test_a_heat_map_as_it_is_shown() -> None:
    assert heat().splitlines() == [
        "passages",
        "      tokens",
        "depth  4k   8k  16k",
        "  0 % 100█  50▄   -",
        " 50 %   0   33▃ 100█",
    ]
    # Columns that have no room stand below.
    assert heat(16).splitlines()[2::4] == ["depth  4k   8k", "depth 16k"]


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    names = ["long name " * 20, "中文" * 60, *"abcdef"]
    lines = [Line(name, POSITIONS, [y + at for y in FULL]) for at, name in enumerate(names)]
    grid = HeatMap("title " * 40, names[:2], ["128,000"] * 11, [[0.5] * 11] * 2)
    from rich.cells import cell_len

    for colour in (False, True):
        for text in (chart(lines, width, colour=colour), heat(width, colour=colour, grid=grid)):
            assert text.endswith("\n")
            plain = COLOUR.sub("", text)
            assert max(map(cell_len, plain.splitlines())) <= width
            assert (plain == text) != colour
    assert COLOUR.sub("", chart(lines, width, colour=True)) == chart(lines, width)


def test_lines_that_coincide_can_all_be_seen() -> None:
    row = next(line for line in chart(LINES).splitlines() if "o" in line and "+" in line)
    assert row.count("o") > 20 and row.count("+") > 20


def test_lines_that_leave_the_chart_are_marked() -> None:
    x, nan, inf = [0.0, 1.0, 2.0, 3.0], math.nan, math.inf
    text = chart([Line("a", x, [3.0, 3.0, 1e6, 3.0]), Line("b", x, [3.1, inf, nan, -inf])])
    assert text.count("^") == 2 and text.count("v") == 1
    assert "o a (up to 1,000,000)" in text and "+ b (infinite)" in text
    assert "o one" in chart([Line("one", [4096], [3.2])])
    assert "o none (no values)" in chart([Line("none", x, [nan] * 4)])
    assert "o empty (no values)" in chart([Line("empty", [], [])], height=2)


def test_a_terminal_without_such_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    grid = HeatMap("title " * 40, GRID.rows, GRID.columns, GRID.values)
    assert chart([Line("name " * 40, POSITIONS, FULL)]).isascii()
    assert heat(grid=grid).splitlines()[3:] == ["  0 % 100   50    -", " 50 %   0   33  100"]
    assert heat(grid=grid).isascii()


def test_names_cannot_act_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    output = console.Output(None)
    assert output.coloured
    evil = "\x1b[31m\x1b]0;x\x07\n"
    output.write(chart([Line(evil, POSITIONS, FULL)], colour=True), coloured=True)
    grid = HeatMap(evil, [evil], [evil], [[0.5]])
    output.write(heat(grid=grid, colour=True), coloured=True)
    shown = screen.getvalue()
    assert "\x1b[38;5;" in shown and "\x1b[31m" not in shown
    assert "\x1b" not in COLOUR.sub("", shown) and "\x07" not in shown
    output.write("\x1b[31m")  # not said to be coloured
    assert not screen.getvalue().endswith("\x1b[31m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.Output(None).coloured
