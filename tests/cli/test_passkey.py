"""``lmi passkey``: its tables, its files, its codes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from lmi_cli.tasks.needles import QUESTION

Run = Callable[..., Any]
GRID = ("--lengths", "150,0.3k", "--depths", "0, 50%,100")
WAYS = ("--answer-from", "passages,memory,window", "--rank", "fast", "-n", 4)
ONE = ("--lengths", "600", "--depths", "50", "--rank", "fast", "-n", 4)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """The object of ``--json`` without what one run and the next may differ in."""
    del report["timing"], report["memory"]
    for cell in report["cells"]:
        for answer in cell["answers"]:
            del answer["answer_s"]
    return report


def test_as_a_table_and_as_json(lmi: Run, model: str) -> None:
    grid = (*GRID, "--trials", 2, "--rank", "fast", "-n", 4)
    result = lmi("passkey", *grid, "-m", model, "-v")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "lm-infinite" and lines[1].strip() == "length in tokens"
    assert lines[2].split() == ["depth", "150", "300"]
    assert [line.split("%")[0].strip() for line in lines[3:6]] == ["0", "50", "100"]
    assert lines[6].split()[0] == "all"
    assert "\x1b" not in result.out
    assert "150 tokens, key at 0 %: 0/2" in result.err
    report = json.loads(lmi("passkey", *grid, "-m", model, "--json").out)
    places = [(cell["length"], cell["depth"]) for cell in report["cells"]]
    assert places == [(length, depth) for length in (150, 300) for depth in (0, 50, 100)]
    for cell in report["cells"]:
        right = sum(trial["correct"] for trial in cell["answers"])
        assert cell["trials"] == 2 and cell["accuracy"] == right / 2
        assert (cell["method"], cell["answer_from"]) == ("lm-infinite", "auto")
    backend = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    question = len(backend.encode(QUESTION, add_special_tokens=False).ids)
    assert report["tokens"]["read"] == 2 * 3 * (150 + 300 - 2 * question)
    coloured = lmi("passkey", *grid, "-m", model, terminal=True)
    assert "\x1b[" in coloured.out and "\\x1b" not in coloured.out


def test_ways_side_by_side_with_their_files(lmi: Run, model: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"r.{name}" for name in ("jsonl", "csv", "svg")}
    kept = ("--results", files["jsonl"], "--csv", files["csv"])
    asked = ("passkey", "--lengths", "150,600", "--depths", "0,60", *WAYS, "-m", model, *kept)
    result = lmi(*asked, "--plot", files["svg"], "--theme", "dark")
    assert result.code == 0, result.err
    titles = [line for line in result.out.splitlines() if line in ("passages", "memory", "window")]
    assert titles == ["passages", "memory", "window"]
    assert "\nwindow 150" not in result.out.replace("  ", " ")  # which has a table of its own
    assert "memory: 150 tokens read with lm-infinite, answered from the whole text" in result.err
    assert "memory: 600 tokens read with lm-infinite, answered from the store" in result.err
    assert files["svg"].read_text().startswith("<?xml")
    report = json.loads(lmi(*asked, "--json").out)
    assert [way["answer_from"] for way in report["ways"]] == ["passages", "memory", "window"]
    assert report["method"]["name"] == "lm-infinite"
    assert {used["answer_from"] for used in report["method"]["by_length"]} == {
        "passages", "memory", "window",
    }  # fmt: skip
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [answer for cell in report["cells"] for answer in cell["answers"]]
    assert len(rows) == len(answers) == 2 * 2 * 3
    for row, answer in zip(rows, answers, strict=True):
        assert (
            row["answer"] == answer["answer"] and json.loads(row["expected"]) == answer["expected"]
        )
        assert float(row["score"]) == answer["score"] and row["needle"] == "passkey"
    lines = files["jsonl"].read_text().splitlines()
    assert len(lines) == 12
    assert {"length", "depth", "trial", "needle", "method", "way"} <= set(
        json.loads(lines[0])["unit"]
    )


def test_a_run_that_was_cut_short_goes_on(lmi: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    asked = ("passkey", "--lengths", "600", "--depths", "0,60", *WAYS, "-m", model, "--json")
    whole = lmi(*asked, "--results", file)
    assert whole.code == 0, whole.err
    expected = without_times(json.loads(whole.out))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:4]) + "\n" + lines[4][:40])
    again = lmi(*asked, "--results", file)
    assert without_times(json.loads(again.out)) == expected
    assert "1 damaged line of" in again.err
    known = lmi(*asked, "--results", file)
    assert without_times(json.loads(known.out)) == expected
    assert "all answers were known from an earlier start" in known.err
    # Another seed, other words, another length of answers: nothing is taken from there.
    for more in (("--seed", 1), ("--values", "words"), ("-n", 3)):
        other = lmi(*asked, "--results", file, *more)
        assert other.code == 0 and "all answers were known" not in other.err


def test_methods_side_by_side(lmi: Run, model: str) -> None:
    compared = ("--compare", "lm-infinite,truncate", "--window", 128, "--answer-from", "window")
    result = lmi("passkey", *ONE, *compared, "-m", model, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert [way["method"] for way in report["ways"]] == ["lm-infinite", "truncate"]
    assert report["method"]["name"] == "lm-infinite,truncate"
    assert [used["form"] for used in report["method"]["by_length"]] == ["stream", "truncated"]
    both = lmi("passkey", *ONE, "--compare", "lm-infinite,inf-llm", *WAYS[:2], "-m", model)
    assert both.code == 2 and "searches no store" in both.err and not both.out
    both = lmi(
        "passkey", *ONE, "--compare", "lm-infinite,streaming-llm", "-m", model,
        "--answer-from", "passages,window", "-n", 2,
    )  # fmt: skip
    assert both.code == 0, both.err
    for title in ("lm-infinite, passages", "lm-infinite, window", "streaming-llm, window"):
        assert f"{title}\n" in both.out


@pytest.mark.parametrize("needle", ["key-value", "multi-value"])
def test_other_needles_in_a_text_of_one_s_own(
    lmi: Run, model: str, long_document: Path, needle: str
) -> None:
    given = () if needle == "key-value" else ("--haystack", long_document)
    grid = ("--lengths", 1500, "--depths", 50, "--window", 200, "--rank", "fast", "-n", 4)
    result = lmi("passkey", *grid, "--needle", needle, *given, "-m", model, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["needle"]["name"] == needle
    assert report["needle"]["haystack"] == ("needles" if not given else str(long_document))
    (answer,) = report["cells"][0]["answers"]
    assert len(answer["expected"]) == len(answer["places"]) == (4 if given else 1)
    assert answer["score"] == 0


def test_the_least_accuracy_sets_the_exit_code(lmi: Run, model: str, tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    asked = ("passkey", *ONE, "-m", model, "--json", "-o", target)
    result = lmi(*asked, "--min-accuracy", "90%")
    assert result.code == 8
    assert result.err.splitlines()[-1] == "lmi: accuracy 0.0% is below --min-accuracy 90.0%"
    assert json.loads(target.read_text())["ways"][0]["accuracy"] == 0  # the result is there
    assert lmi(*asked, "--min-accuracy", "0").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--needle", "nail"), "unknown value 'nail' for --needle"),
        (("--values", "colours"), "unknown value 'colours' for --values"),
        (("--haystack", "nothing-here.txt"), "nothing-here.txt"),
        (("--haystack", "needles"), "cannot be combined with --haystack needles"),
        (("--needle", "key-value", "--haystack", "noise"), "cannot be combined with --haystack"),
        (("--answer-from", "passages,passages"), "each once"),
        (("--answer-from", "passages,everywhere"), "one of auto, passages, memory, window\n"),
        (("--answer-from", "xl3m"), "an option of qa, chat and eval only"),
        (("--answer-from", "passages,window", "--memory-topk", 3), "--memory-topk says how"),
        (("--answer-from", "memory,window", "--no-memory"), "cannot be combined with --no-memory"),
        (("--compare", "truncate", "--method", "full"), "cannot be combined with --compare"),
        (("--min-accuracy", "2"), "expected a share, as in 0.9 or 90%"),
        (("--min-accuracy", "most"), "expected a share, as in 0.9 or 90%"),
        (("--plot", "x.bmp"), ".png, .svg, .pdf"),
        (("--theme", "blue"), "unknown value 'blue' for --theme"),
        (("-n", "-1"), "the smallest is 0"),
        (("--csv", "no-folder/x.csv"), "there is no folder"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(
    lmi: Run, arguments: tuple[object, ...], said: str
) -> None:
    result = lmi("passkey", "-m", "/no/model/here", *arguments)
    assert (result.code, result.out) == (2, "") and said in result.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--results", "a", "--csv", "a"], "is to be written twice"),
        (["-o", "a", "--plot", "a"], "is to be written twice"),
        (["--haystack", "."], "is a folder"),
        (["--lengths", "4k,200000000"], "the largest is 100,000,000 tokens"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    lmi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = lmi("passkey", "-m", "/no/model/here", *given)
    assert result.code == 2 and said in result.err


def test_a_file_that_holds_no_results_is_refused(lmi: Run, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    result = lmi("passkey", "-m", "/no/model/here", "--results", path)
    assert result.code == 2 and "is not a file of results" in result.err
    assert path.read_text() == "dear diary\n"
    path.write_text(" ")
    empty = lmi("passkey", "-m", "/no/model/here", "--haystack", path)
    assert empty.code == 3 and str(path) in empty.err
