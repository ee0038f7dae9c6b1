"""``lmi perplexity`` with several methods and sources: tables, files, and what is refused."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_model import save_model

from lmi_cli.tasks import scored_stream
from lmi_cli.tasks.scored_text import PIECE_TOKENS

Run = Callable[..., Any]
METHODS = "lm-infinite,truncate,streaming-llm"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """One of three steps of the curve."""
    path = tmp_path / "book.txt"
    lines = [f"{number}: The grass is green. The sky is blue.\n" for number in range(620)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def table_of(out: str) -> dict[str, list[str]]:
    """Rows by their first word, up to the chart, and those of sources behind it."""
    rows: dict[str, list[str]] = {}
    for words in filter(None, map(str.split, out.splitlines())):
        rows.setdefault(words[0], words[1:])
    return rows


def test_methods_side_by_side_agree_in_every_form(
    lmi: Run, model: str, book: Path, document: Path, tmp_path: Path
) -> None:
    rows, losses, plot = tmp_path / "r.csv", tmp_path / "r.npy", tmp_path / "r.svg"
    asked = ["perplexity", book, document, "-m", model, "--compare", METHODS, "--window", 64]
    asked += ["--results", tmp_path / "r.jsonl"]
    result = lmi(*asked, "--csv", rows, "--nll-out", losses, "--plot", plot)
    assert result.code == 0, result.err
    report = json.loads(lmi(*asked, "--json", "--nll-out", losses).out)
    assert report["method"] is None and report["perplexity"] is None
    names = [each["method"]["name"] for each in report["methods"]]
    assert ",".join(names) == METHODS
    shown = table_of(result.out)
    assert shown["position"] == names
    figures = [each["perplexity"] for each in report["methods"]]
    for title, name, form in (
        ("nats/token", "nll", "{:.4f}"), ("bits/byte", "bits_per_byte", "{:.4f}"),
        ("perplexity", "ppl", "{:.4f}"), ("tokens", "tokens", "{:,}"),
    ):  # fmt: skip
        assert shown[title] == [form.format(each[name]) for each in figures]
    assert shown["0-4,095"] == [f"{each['curve'][0]['nll']:.4f}" for each in figures]
    assert shown[str(document)][1:] == [f"{m['sources'][1]['nll']:.4f}" for m in report["methods"]]

    kept = np.load(losses, allow_pickle=False)
    assert kept.shape == (3, report["tokens"]["read"])
    table = list(csv.DictReader(io.StringIO(rows.read_text(encoding="utf-8"))))
    assert {row["source"] for row in table} == {str(book), str(document), ""}
    for number, each in enumerate(report["methods"]):
        mine = [row for row in table if row["method"] == each["method"]["name"]]
        tokens = [int(row["tokens"]) for row in mine]
        total = math.fsum(float(r["nll"]) * n for r, n in zip(mine, tokens, strict=True))
        assert sum(tokens) == each["perplexity"]["tokens"] == len(kept[0]) - 1
        assert total / sum(tokens) == pytest.approx(each["perplexity"]["nll"], rel=1e-12)
        assert np.nansum(kept[number], dtype=np.float64) == pytest.approx(total, rel=1e-12)
        assert [s["origin"] for s in each["sources"]] == [str(book), str(document), None]
    drawn = plot.read_text(encoding="utf-8")
    assert all(name in drawn for name in names)


def test_the_chart_stands_below_the_table(lmi: Run, model: str, book: Path) -> None:
    result = lmi("perplexity", book, "-m", model, terminal=True)
    assert result.code == 0, result.err
    before, _, behind = result.out.partition("scored of")
    assert "nats/token" in behind and "position, tokens" in behind
    assert str(PIECE_TOKENS - 1)[-3:] in before.splitlines()[1]
    short = lmi("perplexity", book, "-m", model, "--length", 300)
    assert "position, tokens" not in short.out


@pytest.mark.parametrize("width", [60, 80])
def test_what_does_not_fit_the_width_stands_below(
    lmi: Run, model: str, document: Path, tmp_path: Path, width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    asked = "lm-infinite,streaming-llm,full,truncate,sir-llm"
    other = tmp_path / ("long" * 20 + ".txt")
    other.write_text("The sky is blue.")
    result = lmi("perplexity", document, other, "-m", model, "--compare", asked, terminal=True)
    assert result.code == 0, result.err
    blocks = [line.split()[1:] for line in result.out.splitlines() if line.startswith("position")]
    assert ",".join(name for block in blocks for name in block) == asked and len(blocks) == 2
    tables = result.out.partition("source ")[0]
    assert max(map(len, tables.splitlines())) <= width


def test_sources_by_themselves(lmi: Run, model: str, book: Path, document: Path) -> None:
    both = json.loads(lmi("perplexity", document, book, "-m", model, "--each", "--json").out)
    (found,) = both["methods"]
    for path, part in zip((document, book), found["sources"], strict=True):
        alone = json.loads(lmi("perplexity", path, "-m", model, "--json").out)
        assert {"origin": str(path), **alone["perplexity"]} == part
    assert both["perplexity"] == found["perplexity"]
    assert sum(s["tokens"] for s in both["sources"]) == both["tokens"]["read"]


def test_a_stride_is_that_of_truncate(lmi: Run, model: str, long_document: Path) -> None:
    asked = ["perplexity", long_document, "-m", model, "--length", 400, "--stride", 40]
    result = lmi(*asked, "--window", 100)
    assert result.code == 0 and "documented " in result.out
    report = json.loads(lmi(*asked, "--window", 100, "--json").out)
    method = report["method"]
    assert (method["name"], method["window"], method["stride"]) == ("truncate", 100, 40)
    shown = table_of(result.out)
    assert shown["documented"][0] == f"{report['perplexity']['documented_ppl']:.4f}"
    both = json.loads(lmi(*asked, "--window", 100, "--compare", "full,truncate", "--json").out)
    assert [m["method"].get("stride") for m in both["methods"]] == [None, 40]
    assert both["methods"][1]["perplexity"] == report["perplexity"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stride", 0), "the smallest is 1"),
        (("--stride", 9, "--method", "full"), "read anew"),
        (("--stride", 9, "--compare", "full,lm-infinite"), "read anew"),
        (("--stride", 9, "--window", 8), "left out"),
        (("--compare", "full,full"), "each once"),
        (("--compare", "full,nonesuch"), "nonesuch"),
        (("--compare", "full", "--method", "full"), "--method cannot"),
        (("--compare", "full,truncate", "--sinks", 3), "--sinks"),
        (("--plot", "x.gif"), "x.gif"),
        (("--theme", "pink"), "pink"),
        (("--csv", "absent/x.csv"), "absent"),
        (("--csv", "x.svg", "--plot", "./x.svg"), "written twice"),
        (("--results", "x.jsonl", "-o", "x.jsonl"), "written twice"),
        (("--results", "{document}"), "is read, so nothing else can be written there"),
        (("--results", __file__), "not a file of results"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(
    lmi: Run, document: Path, options: tuple[object, ...], said: str
) -> None:
    options = tuple(str(option).format(document=document) for option in options)
    result = lmi("perplexity", document, "-m", "nonesuch", *options)
    assert result.code == 2 and said in result.err, result.err
    assert result.out == ""


def test_a_method_that_is_not_for_the_model_is_refused_before_anything_is_scored(
    lmi: Run, document: Path, tmp_path: Path
) -> None:
    # Other tests may have looked for the heads of the model that they share.
    fresh, results = save_model(tmp_path / "fresh", seed=11), tmp_path / "r.jsonl"
    asked = ["--compare", "full,lm-infinite", "--dense-heads", "calibrated", "--results", results]
    result = lmi("perplexity", document, "-m", fresh, *asked)
    assert result.code == 4 and "calibrat" in result.err
    assert not results.exists() and result.out == ""


def test_a_dry_run_plans_each_method(lmi: Run, model: str, long_document: Path) -> None:
    asked = ["perplexity", long_document, "-m", model, "--compare", "full,truncate", "--dry-run"]
    result = lmi(*asked)
    assert result.code == 0 and result.out.count("memory   weights") == 2
    report = json.loads(lmi(*asked, "--json").out)
    assert [each["method"]["name"] for each in report["methods"]] == ["full", "truncate"]


def test_a_run_that_goes_on_prints_the_same_object(
    lmi: Run, model: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_stream, "FIRST_SAVE_S", 0.0)
    results = tmp_path / "r.jsonl"
    asked = ["perplexity", book, "-m", model, "--compare", "lm-infinite,truncate", "--json"]
    whole = json.loads(lmi(*asked).out)

    def failing(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lmi_cli.tasks.scoring_work.score_group", failing)
        assert lmi(*asked, "--results", results).code == 130
    result = lmi(*asked, "--results", results)
    again = json.loads(result.out)
    for report in (whole, again):
        del report["timing"], report["memory"]
        for each in report["methods"]:
            del each["timing"]
    assert whole == again
    assert f"lm-infinite: all results come from {results}" in result.err
    assert "truncate: scored in" in result.err
