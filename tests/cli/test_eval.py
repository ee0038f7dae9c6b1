"""``lmi eval``: its table, its files, its codes."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_model import TRAINED_LENGTH, save_model

Run = Callable[..., Any]
SENTENCE = "The grass is green. The sky is blue."
LONGBENCH = {
    "input": "What is blue?", "context": f"{SENTENCE} " * 60, "answers": ["the sky"],
    "all_classes": None, "length": 1, "dataset": "hotpotqa", "_id": "a1",
}  # fmt: skip
FAST = ("--rank", "fast", "-n", 6)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"hotpotqa": "{context}\nQ: {input}\nA:"}))
    return path


@pytest.fixture
def longbench(tmp_path: Path) -> Path:
    short = {**LONGBENCH, "context": SENTENCE}
    return write(tmp_path / "hotpotqa.jsonl", LONGBENCH, short, LONGBENCH)


@pytest.fixture
def own(tmp_path: Path, long_document: Path) -> Path:
    records = [
        {"document": long_document.name, "question": f"What is {n}?", "pattern": ".", "lines": n}
        for n in (1, 60)
    ]
    return write(tmp_path / "mine.jsonl", *records)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]


def test_own_questions_with_evidence(lmi: Run, model: str, own: Path) -> None:
    result = lmi("eval", own, "-m", model, *FAST)
    assert result.code == 0, result.err
    table = rows(result.out)
    assert table[0] == ["task", "metric", "n", "lm-infinite"]
    assert [row[-3] for row in table[2:6]] == [
        "match", "evidence first", "evidence five", "evidence mrr",
    ]  # fmt: skip
    assert table[2] == ["mine", "match", "2", table[2][-1]]
    assert "lm-infinite: texts: 1 read as a stream; answers: 2 from passages; read " in result.err
    assert "answers are not kept: with --predictions" in result.err


def test_methods_side_by_side_with_their_files(
    lmi: Run, model: str, longbench: Path, prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    arguments = ["eval", longbench, "-m", model, "--prompts", prompts, *FAST, "--json"]
    arguments += ["--compare", "lm-infinite,truncate", "--predictions", folder]
    result = lmi(*arguments, "--truncation-side", "middle")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["command"] == "eval" and set(report["methods"]) == {"lm-infinite", "truncate"}
    assert report["methods"]["truncate"]["config"]["method"] == {
        "name": "truncate", "truncation_side": "middle",
    }  # fmt: skip
    for name, found in report["methods"].items():
        lines = (folder / name / "hotpotqa.jsonl").read_text().splitlines()
        for number, line in enumerate(lines):
            assert json.loads(line) == {
                "pred": json.loads(line)["pred"], "answers": ["the sky"], "all_classes": None,
                "length": 1, "_id": "a1", "lmi_record": number,
            }  # fmt: skip
        assert len(lines) == 3
        assert json.loads((folder / name / "results.json").read_text()) == found
        assert found["configs"]["hotpotqa"]["generation_kwargs"] == {"max_gen_toks": 6}
        assert found["n-samples"] == {"hotpotqa": {"original": 3, "effective": 3}}
        assert 0 <= found["results"]["hotpotqa"]["qa_f1,none"] <= 1
    (pair,) = report["differences"].items()
    means = [found["results"]["hotpotqa"]["qa_f1,none"] for found in report["methods"].values()]
    assert pair[0] == "lm-infinite - truncate"
    assert pair[1]["hotpotqa"]["qa_f1,none"] == pytest.approx(means[0] - means[1])
    assert "truncate: texts: 1 truncated, 1 read whole" in result.err
    target = tmp_path / "rows.jsonl"
    again = lmi(*arguments, "--truncation-side", "middle", "--jsonl", target)
    f1 = [row for line in target.read_text().splitlines() if (row := json.loads(line))["n"]]
    assert [(row["task"], row["method"], row["metric"], row["mean"]) for row in f1] == [
        ("hotpotqa", name, "qa_f1", mean)
        for name, mean in zip(report["methods"], means, strict=True)
    ]
    assert again.code == 0 and "truncate: all questions had been answered before" in again.err
    assert _without_time(json.loads(again.out)) == _without_time(report)
    other = lmi(*arguments)
    assert other.code == 2 and "truncation_side was middle, not None" in other.err


def _without_time(report: dict[str, Any]) -> Any:
    for found in report["methods"].values():
        del found["total_evaluation_time_seconds"]
    return report["methods"]


def test_a_run_that_is_interrupted_goes_on(
    lmi: Run, start: Run, model: str, longbench: Path, prompts: Path, tmp_path: Path
) -> None:
    arguments = ["eval", longbench, "-m", model, "--prompts", prompts, "-n", 200, "--no-memory"]
    arguments += ["--temperature", 3]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert lmi(*arguments, "--predictions", whole).code == 0
    process = start(*arguments, "--predictions", part, stderr=subprocess.DEVNULL)
    file = part / "lm-infinite" / "hotpotqa.jsonl"
    until = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    kept = file.read_bytes()
    assert kept and not (part / "lm-infinite" / "results.json").exists()
    assert lmi(*arguments, "--predictions", part).code == 0
    assert kept.splitlines()[0] in file.read_bytes().splitlines()
    for name in ("hotpotqa.jsonl", "run.json"):
        assert (part / "lm-infinite" / name).read_bytes() == (
            whole / "lm-infinite" / name
        ).read_bytes()


def test_a_later_run_of_another_task_keeps_the_results_of_the_first(
    lmi: Run, model: str, own: Path, tmp_path: Path
) -> None:
    arguments = ["-m", model, *FAST, "--predictions", tmp_path / "p"]
    assert lmi("eval", own, *arguments).code == 0
    other = write(tmp_path / "other.jsonl", json.loads(own.read_text().split("\n")[0]))
    assert lmi("eval", other, *arguments).code == 0
    results = json.loads((tmp_path / "p" / "lm-infinite" / "results.json").read_text())
    assert set(results["results"]) == set(results["configs"]) == {"mine", "other"}
    chunk = lmi("eval", own, *arguments, "--chunk", 16)
    assert chunk.code == 2 and "chunk was" in chunk.err
    (own.parent / "book.txt").write_text(SENTENCE * 90)
    changed = lmi("eval", own, *arguments)
    assert changed.code == 2 and "or about other documents" in changed.err


def test_a_limit_can_be_raised_later(
    lmi: Run, model: str, longbench: Path, prompts: Path, tmp_path: Path
) -> None:
    arguments = ["eval", longbench, "-m", model, "--prompts", prompts, *FAST, "--json"]
    arguments += ["--predictions", tmp_path / "p"]
    for limit, count in ((1, 1), (2, 2), (1, 1), (9, 3)):
        result = lmi(*arguments, "--limit", limit)
        assert result.code == 0, result.err
        samples = json.loads(result.out)["methods"]["lm-infinite"]["n-samples"]["hotpotqa"]
        assert samples["effective"] == count


def test_published_words_are_asked_for(lmi: Run, model: str, longbench: Path) -> None:
    result = lmi("eval", longbench, "-m", model)
    assert result.code == 2
    assert "hotpotqa is asked in published words, which have to be given" in result.err
    assert "config/dataset2prompt.json in the repository of LongBench" in result.err
    asked = lmi("eval", longbench, "-m", model, "--prompts", "own", *FAST)
    assert asked.code == 0
    assert "LongBench: asked in the words of lmi qa, so scores cannot be compared" in asked.err


def test_tasks_by_name_and_a_dry_run(lmi: Run, model: str, own: Path, tmp_path: Path) -> None:
    ruler = {"index": 0, "input": f"{SENTENCE}\nWhat is blue?", "outputs": ["sky"], "length": 9}
    (tmp_path / "niah_single_1").mkdir()
    write(tmp_path / "niah_single_1" / "validation.jsonl", ruler)
    write(tmp_path / "leval.jsonl", {
        "instructions": ["A or B?", "C or D?"], "outputs": ["A", "C"], "input": SENTENCE,
        "source": "s", "evaluation": "exam",
    })  # fmt: skip
    arguments = ("niah_single_1", "leval", own, "--data", tmp_path, "--dry-run")
    result = lmi("eval", *arguments)
    assert result.code == 0
    assert rows(result.out)[2:5] == [
        ["niah_single_1", "RULER", "1", "1", "string_match_all", "128"],
        ["leval: exam", "L-Eval", "1", "2", "letter", "512"],
        ["mine", "own questions", "1", "2", "match", "as qa"],
    ]
    listed = json.loads(lmi("eval", *arguments, "--json").out)
    assert listed["command"] == "eval" and listed["dry_run"] is True
    assert listed["tasks"][1] == {
        "task": "leval: exam", "form": "L-Eval", "texts": 1, "questions": 2, "metrics": ["letter"],
        "answer_tokens": 512,
    }  # fmt: skip
    write(tmp_path / "hotpotqa.jsonl", LONGBENCH)  # whose words are not asked for here
    assert lmi("eval", "hotpotqa", "--data", tmp_path, "--dry-run").code == 0
    done = lmi("eval", *arguments[:2], "--data", tmp_path, "-m", model, *FAST)
    assert done.code == 0 and "leval: exam" in done.out and "string match all" in done.out


def test_records_on_standard_input(lmi: Run, model: str, own: Path) -> None:
    line = json.dumps({**json.loads(own.read_text().split("\n")[0]), "task": "piped"})
    document = str(own.parent / "book.txt")
    data = line.replace('"book.txt"', json.dumps(document)).encode()
    result = lmi("eval", "-", "-m", model, *FAST, stdin=data)
    assert result.code == 0 and rows(result.out)[2][0] == "piped"


def test_a_folder_and_a_terminal(lmi: Run, model: str, own: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    for name in ("b", "a"):
        record = {"document": "../book.txt", "question": "?", "answers": ["\x1b[1m"]}
        write(folder / f"{name}.jsonl", record)
    result = lmi("eval", folder, "-m", model, *FAST, terminal=True)
    assert result.code == 0
    assert [row[0] for row in rows(result.out) if "contains" in row] == ["a", "b"]
    assert "\x1b" not in result.out


def test_the_name_of_a_task_cannot_act_on_the_terminal(
    lmi: Run, model: str, own: Path, tmp_path: Path
) -> None:
    record = {"document": "book.txt", "question": "?", "answers": ["x"], "task": "a\x1b[2Jb[red]"}
    result = lmi("eval", write(tmp_path / "x.jsonl", record), "-m", model, *FAST)
    assert result.code == 0 and r"a\x1b[2Jb[red]" in result.out and "\x1b" not in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.jsonl"], 2, "no such file: missing.jsonl"),
        (["qasper", "--data", "."], 2, "there is no file of the task qasper in ."),
        (["empty.jsonl"], 3, "empty.jsonl: the file is empty"),
        (["image.jsonl"], 3, "image.jsonl: a binary file"),
        (["torn.jsonl"], 3, "torn.jsonl line 2: not JSON"),
        (["field.jsonl"], 3, "field.jsonl line 1: 'answers' is no list of texts"),
        (["unknown.jsonl"], 3, "unknown.jsonl line 1: a record of no known form"),
        (["folder"], 3, "folder: no file of records"),
        (["-", "-"], 2, "- (standard input) is named more than once"),
        (["good.jsonl", "./good.jsonl"], 2, "good.jsonl is named more than once"),
        (["x" * 300], 3, "File name too long"),
        (["good.jsonl", "--limit", "0"], 2, "--limit 0: the smallest is 1"),
        (["good.jsonl", "-n", "-1"], 2, "--max-new-tokens -1: the smallest is 0"),
        (["good.jsonl", "--prompts", "none.json"], 2, "prompts file none.json: No such file"),
        (["good.jsonl", "--compare", "full,full"], 2, "--compare needs methods, each once"),
        (["good.jsonl", "--compare", ","], 2, "--compare needs methods"),
        (["good.jsonl", "--compare", "x"], 2, "unknown method 'x'"),
        (["good.jsonl", "--compare", "full", "--method", "full"], 2, "cannot be combined with"),
        (["good.jsonl", "--compare", "full", "--window", "9"], 2, "in --compare has --window"),
        (["good.jsonl", "--predictions", "good.jsonl"], 2, "good.jsonl is a file"),
        (["good.jsonl", "--predictions", "x" * 300], 2, "File name too long"),
        (["good.jsonl", "--predictions", "folder"], 2, "has files, but no run.json"),
        (["good.jsonl", "--answer-from", "memory", "--no-memory"], 2, "cannot be combined with"),
        (["good.jsonl", "-o", "folder"], 2, "folder is a folder"),
        (["blank.jsonl", "--prompts", "own"], 2, "blank.jsonl line 1 asks no question of its own"),
    ],
)
def test_faults(
    lmi: Run,
    model: str,
    document: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    folder = document.parent
    monkeypatch.chdir(folder)
    record = {"document": document.name, "question": "?", "answers": ["x"]}
    write(folder / "good.jsonl", record)
    write(folder / "field.jsonl", {**record, "answers": 5})
    write(folder / "unknown.jsonl", {"a": 1})
    write(folder / "blank.jsonl", {**LONGBENCH, "input": ""})
    (folder / "torn.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record)[:20])
    (folder / "empty.jsonl").write_text("")
    (folder / "image.jsonl").write_bytes(b"\x89PNG\0\0\0")
    (folder / "folder" / "lm-infinite").mkdir(parents=True)
    (folder / "folder" / "lm-infinite" / "notes.txt").write_text("mine")
    result = lmi("eval", *arguments, "-m", model)
    assert (result.code, result.out) == (code, ""), result.err
    lines = [line for line in result.err.splitlines() if line.startswith("lmi: ")]
    assert len(lines) == 1 and said in lines[0]


def test_a_document_with_losses_under_strict(lmi: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 9)
    path = write(tmp_path / "r.jsonl", {"document": "a.txt", "question": "?", "answers": ["x"]})
    assert lmi("eval", path, "-m", model, *FAST).code == 0
    result = lmi("eval", path, "-m", model, *FAST, "--strict")
    assert result.code == 6 and "not used in full" in result.err


def test_answers_from_parts(lmi: Run, model: str, own: Path) -> None:
    result = lmi("eval", own, "-m", model, "-n", 4, "--answer-from", "xl3m")
    assert result.code == 0, result.err
    assert "texts: 1 read part by part with each question; answers: 2 from xl3m" in result.err
    both = ("--compare", "lm-infinite,inf-llm", "--answer-from", "chain")
    refused = lmi("eval", own, "-m", model, *both)
    assert refused.code == 2 and "cannot be combined with --method" in refused.err


def test_heads_that_have_not_been_looked_for(lmi: Run, own: Path, tmp_path: Path) -> None:
    fresh = save_model(tmp_path / "fresh", seed=7)
    result = lmi("eval", own, "-m", fresh, *FAST, "--dense-heads", "calibrated")
    assert result.code == 4, result.err
    assert "have not been looked for" in result.err and "Traceback" not in result.err


def test_what_a_method_looks_up_is_not_all(lmi: Run, model: str, own: Path) -> None:
    result = lmi("eval", own, "-m", model, *FAST, "--method", "inf-llm")
    assert result.code == 0, result.err
    assert "inf-llm: texts: 1 read as a stream; answers: 2 from passages" in result.err


def test_the_store_is_searched_where_a_method_can(lmi: Run, model: str, own: Path) -> None:
    arguments = ["eval", own, "-m", model, "-n", 4, "--answer-from", "memory", "--compare"]
    result = lmi(*arguments, "lm-infinite,truncate,full")
    assert result.code == 0, result.err
    assert "lm-infinite: texts: 1 read as a stream; answers: 2 from memory" in result.err
    assert "truncate: texts: 1 truncated; answers: 2 from window" in result.err
    assert "full: texts: 1 read as a stream; answers: 2 from whole" in result.err
    refused = lmi(*arguments, "streaming-llm")
    assert refused.code == 2 and "streaming-llm searches no store" in refused.err
    assert TRAINED_LENGTH == 256
