"""Makes every figure of these pages, as PNG and as SVG, for light pages and for dark ones.

    python docs/figures.py                       # those of the tables in the pages, in seconds
    python docs/figures.py loss --text emma.txt  # these two are measured first, which takes hours
    python docs/figures.py passkey

A command that measures keeps its results in a file beside the figures (``--results``). It goes on
from there if it is interrupted, and once everything is measured it only draws.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import dropwhile, takewhile
from pathlib import Path

from lmi_cli.figures import THEMES, Line, line_chart

DOCS = Path(__file__).parent
FOLDER = DOCS / "figures"
ENDINGS = (".png", ".svg")


def loss(path: Path, theme: str, text: Path | None) -> None:
    """Loss over position in a long text, method by method."""
    if text is None:
        sys.exit("loss: name a text of 100,000 tokens or more by --text")
    options = "--length 100k --compare lm-infinite,truncate,streaming-llm,full"
    _command("perplexity", str(text), *options.split(), path=path, theme=theme)


def passkey(path: Path, theme: str, text: Path | None) -> None:
    """Right answers about a passkey by length and depth, for three ways of answering."""
    options = (
        "--lengths 2K,4K,8K,16K,32K,64K,128K --depths 0,10,20,30,40,50,60,70,80,90,100 "
        "--answer-from passages,memory,window"
    )
    _command("passkey", *options.split(), path=path, theme=theme)


def speed(path: Path, theme: str, text: Path | None) -> None:
    """Prefill by depth, with the matrix unit and without it, and by transformers."""
    names = {
        "lmi": "lmi",
        "before": "lmi without the matrix unit",
        "stock": "transformers",
    }
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    depth = 0.0
    for row in table("performance.md", "Processors with AMX"):
        depth = number(row[0]) if row[0] else depth
        runner = row[1].partition(" ")[0]
        if runner in lines:
            lines[runner].append((depth, number(row[2])))
    line_chart(
        path,
        [Line(names[key], *zip(*points, strict=True)) for key, points in lines.items()],
        title="Speed of reading, default model (trained length 8,192 tokens)",
        x_label="length of the text, in tokens",
        y_label="prefill, tokens per second",
        y_limits=(0, 5000),
        theme=theme,
    )


def cache(path: Path, theme: str, text: Path | None) -> None:
    """Keys and values that are kept, by depth."""
    rows = table("performance.md", "Keys and values by depth")
    depths = [number(row[0]) for row in rows]
    names = ("transformers", "lmi, window 8,192", "lmi, window 2,048")
    line_chart(
        path,
        [Line(name, depths, [number(row[at]) for row in rows]) for at, name in enumerate(names, 1)],
        title="Keys and values in memory, default model",
        x_label="length of the text, in tokens",
        y_label="MiB",
        theme=theme,
    )


FIGURES: dict[str, Callable[[Path, str, Path | None], None]] = {
    "speed": speed,
    "cache": cache,
    "loss": loss,
    "passkey": passkey,
}
FROM_TABLES = ("speed", "cache")


def _command(name: str, *arguments: str, path: Path, theme: str) -> None:
    """Run a command of ours, which draws into a path what is in a file of results, or measures."""
    figure = ["--results", str(FOLDER / f"{name}.jsonl"), "--plot", str(path), "--theme", theme]
    run = subprocess.run([sys.executable, "-m", "lmi_cli", name, *arguments, *figure], check=False)
    if run.returncode:
        sys.exit(run.returncode)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"# {heading}\n")[2]
    lines = dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = list(takewhile(lambda line: line.startswith("|"), lines))[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def number(cell: str) -> float:
    """The first number in a cell."""
    found = re.search(r"\d[\d,]*(\.\d+)?", cell)
    if found is None:
        sys.exit(f"{cell!r} has no number")
    return float(found[0].replace(",", ""))


def main() -> None:
    """Make the figures that are named, or those of tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--text", type=Path, help="the text whose loss is measured")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where figures are written")
    options = parser.parse_args()
    names = options.names or FROM_TABLES
    if unknown := [name for name in names if name not in FIGURES]:
        parser.error(f"unknown figure {unknown[0]}: expected {', '.join(FIGURES)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for theme in THEMES:
            for ending in ENDINGS:
                FIGURES[name](options.folder / f"{name}-{theme}{ending}", theme, options.text)


if __name__ == "__main__":
    main()
