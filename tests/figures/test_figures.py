"""Figures as files: complete, the same for the same input, and drawn from any numbers."""

import logging
import math
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib import rc_context
from PIL import Image

from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.figures import HeatMap, Line, files, heat_maps, line_chart, require_figure
from lmi_cli.figures.data import Extent, axis_texts, label_of, shortened, x_extent, y_extent
from lmi_cli.figures.heat import _on
from lmi_cli.figures.lines import spread

POSITIONS = list(range(1024, 100_000, 2048))
FLAT = [3.2 + 0.01 * (at % 5) for at in range(len(POSITIONS))]
FULL = [value + max(0, at - 3) * 0.3 for at, value in enumerate(FLAT)]
LINES = [Line("lm-infinite", POSITIONS, FLAT), Line("full", POSITIONS, FULL)]
LABELS = {"title": "Loss over position", "x_label": "position", "y_label": "nats/token"}
GRID = HeatMap("window", ["0 %", "50 %"], ["4k", "8k", "16k"], [[1, 0.5, None], [0, 0.33, 1.0]])
AXES = {"row_label": "depth", "column_label": "tokens", "value_label": "right answers"}


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    one, two = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"

    def draw(path: Path) -> None:
        if ending == "svg":
            heat_maps(path, [GRID, GRID], **AXES)
        else:
            line_chart(path, LINES, **LABELS)

    draw(one)
    with rc_context({"axes.facecolor": "red", "font.size": 30}):  # whatever the user has set
        draw(two)
    assert one.read_bytes() == two.read_bytes()
    assert 0 < one.stat().st_size < 100_000
    assert sorted(tmp_path.iterdir()) == [one, two]
    assert "matplotlib.pyplot" not in sys.modules


def test_fonts_are_in_the_files(tmp_path: Path) -> None:
    line_chart(tmp_path / "a.pdf", LINES, **LABELS)
    line_chart(tmp_path / "a.svg", LINES, **LABELS)
    pdf, svg = (tmp_path / "a.pdf").read_bytes(), (tmp_path / "a.svg").read_text("utf-8")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf and "<dc:date>" not in svg
    assert "<text" not in svg and "DejaVuSans" in svg


def test_themes_have_their_backgrounds_and_nothing_touches_the_edge(tmp_path: Path) -> None:
    maps = [GRID, HeatMap("a title that is long enough for two lines", ["x" * 40], ["y"], [[0.5]])]
    named = [Line(f"{name}, a method with a long name {at}", POSITIONS, FLAT)
             for at, name in enumerate("abcdefgh")]  # fmt: skip
    for theme, background in (("light", (255, 255, 255)), ("dark", (13, 17, 23))):
        line_chart(tmp_path / "lines.png", named, **LABELS | {"title": "long " * 30}, theme=theme)
        heat_maps(tmp_path / "maps.png", maps, **AXES, theme=theme)
        for name in ("lines.png", "maps.png"):
            with Image.open(tmp_path / name) as image:
                picture = image.convert("RGB")
            width, height = picture.size
            edges = [(0, 0, width, 1), (0, height - 1, width, height),
                     (0, 0, 1, height), (width - 1, 0, width, height)]  # fmt: skip
            for edge in edges:
                colours = picture.crop(edge).getcolors()
                assert colours is not None and {colour for _, colour in colours} == {background}


def test_any_numbers_can_be_drawn(tmp_path: Path) -> None:
    x = [0.0, 1.0, 2.0, 3.0]
    nan, inf = math.nan, math.inf
    lines = [
        Line("gap $x_1$ \x1b[31m \n 中", x, [3.0, nan, 3.1, 3.2]),
        Line("inf", x, [3.0, inf, -inf, 3.1]),
        Line("nothing", x, [nan] * 4),
        Line("empty", [], []),
        Line("explodes", x, [3.0, 1e3, 1e30, 3.0]),
    ]
    path = tmp_path / "a.png"
    line_chart(path, lines, **LABELS)
    line_chart(path, lines[2:4], **LABELS)
    line_chart(path, [Line("one point", [4096], [3.2])], **LABELS)
    line_chart(path, LINES, **LABELS, y_limits=(3.0, 4.0))
    heat_maps(path, [HeatMap("", ["a"], ["b"], [[None]])], **AXES)
    line_chart(path, [LINES[0]] * 12, **LABELS)
    with pytest.raises(ValueError, match="there is no line to draw"):
        line_chart(path, [], **LABELS)
    with pytest.raises(ValueError, match="there is no heat map to draw"):
        heat_maps(path, [], **AXES)
    with pytest.raises(ValueError, match="expected a lower and an upper one"):
        line_chart(path, LINES, **LABELS, y_limits=(4.0, 3.0))
    with pytest.raises(ValueError, match="expected 1 rows of 2 values"):
        HeatMap("", ["a"], ["b", "c"], [[0.5]])
    with pytest.raises(ValueError, match="2 positions, but 1 values"):
        Line("a", [1, 2], [3])


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "a", ".png", "a.PNG.txt"):
        with pytest.raises(UsageError, match="is not the name of a figure") as caught:
            require_figure(tmp_path / name)
        assert caught.value.hint == "use one of .png, .svg, .pdf"
    require_figure(tmp_path / "A.PNG")
    with pytest.raises(UsageError, match="unknown value 'blue' for --theme") as caught:
        require_figure(tmp_path / "a.png", "blue")
    assert caught.value.hint == "one of light, dark"
    with pytest.raises(ResourceError, match="cannot be written: No such file or directory"):
        line_chart(tmp_path / "none" / "a.svg", LINES, **LABELS)
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="package matplotlib, which is not installed") as caught:
        require_figure(tmp_path / "a.png")
    assert caught.value.exit_code == 2 and caught.value.hint == "pip install 'lmi[plot]'"


def test_messages_of_matplotlib_are_not_shown(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    logger = logging.getLogger("matplotlib")
    with files.drawing(files.theme_named("light")):
        logger.warning("a temporary folder was made")
    assert not caplog.records and logger.level == logging.NOTSET


def test_numbers_beside_axes() -> None:
    assert axis_texts([0, 20_000, 100_000], thousands=True) == ["0", "20k", "100k"]
    assert axis_texts([0, 500_000, 1_000_000], thousands=True) == ["0", "500k", "1,000k"]
    assert axis_texts([10_000, 12_500], thousands=True) == ["10k", "12.5k"]
    assert axis_texts([0, 4096, 8192], thousands=True) == ["0", "4,096", "8,192"]
    assert axis_texts([0, 12_500]) == ["0", "12,500"]
    assert axis_texts([3.0, 3.25, 3.5]) == ["3.00", "3.25", "3.50"]
    assert axis_texts([0, 5e300, 1e301]) == ["0", "5e+300", "1e+301"]
    assert Extent(0, 100_000).ticks(8) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert Extent(-1, 1).ticks(5) == [-1, -0.5, 0, 0.5, 1]
    assert x_extent(LINES) == Extent(0, 100_000)
    for most in range(2, 12):
        for low, high in ((0, 1), (3.17, 10.4), (1e-9, 3e-9), (-7e5, 3e9), (99.99, 100)):
            ticks = Extent(low, high).ticks(most)
            assert 1 <= len(ticks) <= most and low <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)


def test_names_say_how_far_a_line_goes() -> None:
    extent = y_extent([*LINES, Line("x", [0, 1], [3.0, 1e6])])
    assert extent.high < 100
    assert label_of(Line("full", [0, 1], [3.2, 10.437]), Extent(3, 5)) == "full (up to 10.4)"
    assert label_of(Line("full", [0, 1], [3.2, 1e6]), Extent(3, 5)) == "full (up to 1,000,000)"
    assert label_of(Line("full", [0], [math.inf]), Extent(3, 5)) == "full (infinite)"
    assert label_of(Line("full", [0], [math.nan]), Extent(3, 5)) == "full (no values)"
    assert label_of(Line("full", [0], [4.0]), Extent(3, 5)) == "full"
    assert shortened("abcdefghij", 5) == "ab…ij" and shortened("abc", 3) == "abc"


def test_labels_stand_near_the_ends_and_never_over_each_other() -> None:
    assert spread([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])
    assert spread([0.5, 0.5], [0.1, 0.1]) == pytest.approx([0.55, 0.45])
    for targets in ([0.0] * 8, [1.0] * 8, [0.1, 0.12, 0.13, 0.5, 0.52, 1, 1, 0], [0.5] * 3):
        centres = sorted(spread(targets, [0.1] * len(targets)))
        assert centres[0] >= 0.05 - 1e-9 and centres[-1] <= 0.95 + 1e-9
        assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(centres))


def test_numbers_in_cells_contrast() -> None:
    assert _on((0.0, 0.13, 0.3)) == "#FFFFFF" and _on((1.0, 0.91, 0.22)) == "#000000"
    assert re.fullmatch("#[0F]{6}", _on((0.44, 0.44, 0.45)))
