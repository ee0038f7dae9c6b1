"""Predictions are kept as they come, and an interrupted run goes on from them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.errors import NoInputError, ResourceError, UsageError
from lmi_cli.evaluation.files import EvalTask, read_tasks
from lmi_cli.evaluation.forms.base import RecordFile
from lmi_cli.evaluation.predictions import Predictions, locked
from lmi_cli.evaluation.results import (
    RESAMPLED,
    differences,
    figure_of,
    figures_of,
    results_object,
    with_earlier,
)

RUN: dict[str, Any] = {"model": {"id": "m", "dtype": "bfloat16"}, "method": {"window": 16}}


def task_of(count: int = 3, answer: str = "Bob") -> EvalTask:
    record = {"input": "Who?", "context": "T", "answers": [answer], "dataset": "hotpotqa"}
    lines = [json.dumps({**record, "length": 5000 * n}) for n in range(count)]
    (task,) = read_tasks([(RecordFile(Path("hotpotqa_e.jsonl")), "\n".join(lines).encode())])
    return task


def test_answers_are_read_back(tmp_path: Path) -> None:
    task, folder = task_of(), tmp_path / "p"
    first = Predictions(folder, RUN).of(task)
    first.add(task.items[0], "Bob\n\u2028é", None, ranked=False)
    first.add(task.items[2], "Al", 4, ranked=True)
    path = folder / "longbench_e" / "hotpotqa.jsonl"
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == [
        {"pred": "Bob\n\u2028é", "answers": ["Bob"], "all_classes": None, "length": 0,
         "lmi_record": 0},
        {"pred": "Al", "answers": ["Bob"], "all_classes": None, "length": 10000, "lmi_record": 2,
         "lmi_rank": 4},
    ]  # fmt: skip
    again = Predictions(folder, RUN).of(task)
    assert again.answers == {0: "Bob\n\u2028é", 2: "Al"} and again.ranks == {2: 4}


def test_a_torn_line_is_answered_again(tmp_path: Path) -> None:
    task, folder = task_of(), tmp_path / "p"
    Predictions(folder, RUN).of(task).add(task.items[0], "Bob", None, ranked=False)
    path = folder / "longbench_e" / "hotpotqa.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    again = Predictions(folder, RUN).of(task)
    assert again.answers == {0: "Bob"} and path.read_bytes() == whole
    again.add(task.items[1], "Al", None, ranked=False)
    assert Predictions(folder, RUN).of(task).answers == {0: "Bob", 1: "Al"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is not a prediction of lmi"),
        ("[]", "line 1 is not a prediction of lmi"),
        ('{"pred": "x"}', "line 1 is not a prediction of lmi"),
        ('{"lmi_record": 0}', "line 1 is not a prediction of lmi"),
        ('{"lmi_record": 3, "pred": "x"}', "line 1: there is no record number 3"),
        ('{"lmi_record": "0", "pred": "x"}', "there is no record number"),
        ('{"lmi_record": 0, "pred": "x", "lmi_rank": 0}', "line 1 is not a prediction of lmi"),
        ('{"lmi_record": 0, "pred": null}', "line 1 is not a prediction of lmi"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path: Path, line: str, said: str) -> None:
    task, folder = task_of(), tmp_path / "p"
    Predictions(folder, RUN).of(task)
    (folder / "longbench_e" / "hotpotqa.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError) as caught:
        Predictions(folder, RUN).of(task)
    assert said in caught.value.message


def test_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    Predictions(folder, RUN).of(task_of())
    other = {**RUN, "method": {"window": 32}}
    with pytest.raises(UsageError, match="another run: window was 16, not 32"):
        Predictions(folder, other)
    with pytest.raises(UsageError, match="another run: extra was None, not 1"):
        Predictions(folder, {**RUN, "extra": 1})
    with pytest.raises(UsageError, match="another run: method was"):
        Predictions(folder, {**RUN, "method": {"window": 16, "side": None}})
    corrected = task_of(answer="Al")  # before anything has been answered
    Predictions(folder, RUN).of(corrected).add(corrected.items[0], "x", None, ranked=False)
    with pytest.raises(UsageError, match="has answers to other records of hotpotqa_e"):
        Predictions(folder, RUN).of(task_of())


@pytest.mark.parametrize("document", ["a.txt", "folder"])
def test_answers_about_other_documents_are_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "a.txt" if document == "a.txt" else tmp_path / "folder" / "a.txt"
    path.write_text("one")
    record = {"document": document, "question": "?", "answers": ["x"]}
    (task,) = read_tasks([(RecordFile(tmp_path / "mine.jsonl"), json.dumps(record).encode())])
    Predictions(tmp_path / "p", RUN).of(task).add(task.items[0], "x", None, ranked=False)
    assert Predictions(tmp_path / "p", RUN).of(task).answers == {0: "x"}
    path.write_text("two")
    with pytest.raises(UsageError, match="or about other documents"):
        Predictions(tmp_path / "p", RUN).of(task)
    path.unlink()
    if document == "a.txt":
        with pytest.raises(NoInputError, match=r"a\.txt: No such file"):
            Predictions(tmp_path / "p", RUN).of(task)


def test_halves_of_characters_in_a_record_are_replaced(tmp_path: Path) -> None:
    record = {"input": "Who?", "context": "T", "answers": ["x"], "dataset": "hotpotqa"}
    data = json.dumps({**record, "length": 1, "_id": "\ud800"}).encode()
    (task,) = read_tasks([(RecordFile(Path("hotpotqa.jsonl")), data)])
    Predictions(tmp_path / "p", RUN).of(task).add(task.items[0], "x", None, ranked=False)
    assert json.loads((tmp_path / "p" / "hotpotqa.jsonl").read_text())["_id"] == "\ufffd"


def test_the_last_of_several_answers_counts_and_blank_lines_do_not(tmp_path: Path) -> None:
    task, folder = task_of(), tmp_path / "p"
    first = Predictions(folder, RUN).of(task)
    first.add(task.items[1], "b", None, ranked=False)
    first.add(task.items[0], "a", 2, ranked=True)
    first.add(task.items[0], "c", None, ranked=False)
    path = folder / "longbench_e" / "hotpotqa.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n", 1))
    again = Predictions(folder, RUN).of(task)
    assert again.answers == {0: "c", 1: "b"} and again.ranks == {}
    again.finish()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["pred"] for line in lines] == ["c", "b"]


def test_several_processes_add_to_a_file_even_behind_a_torn_line(tmp_path: Path) -> None:
    task, folder = task_of(2), tmp_path / "p"
    first, second = (Predictions(folder, RUN).of(task) for _ in range(2))
    first.add(task.items[0], "a", None, ranked=False)
    path = folder / "longbench_e" / "hotpotqa.jsonl"
    path.write_bytes(path.read_bytes() + b'{"pred": "to')  # by one that has been killed
    second.add(task.items[1], "b", None, ranked=False)
    assert first.answers == {0: "a"}
    first.read()
    assert first.answers == {0: "a", 1: "b"}
    first.add(task.items[1], "c", None, ranked=False, write=False)
    assert Predictions(folder, RUN).of(task).answers == {0: "a", 1: "b"}


def test_two_processes_do_not_write_to_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "p" / "full"
    with (
        locked(folder),
        pytest.raises(UsageError, match="another lmi process writes predictions to"),
        locked(folder),
    ):
        pass
    with locked(folder), locked(None):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"), locked(tmp_path / "file" / "p"):
        pass


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be read: File name too long"):
        Predictions(tmp_path / ("x" * 300), RUN)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"tasks": 5}', '{"tasks": {"t": 1}}'])
def test_a_folder_that_is_something_else_is_refused(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"has files, but no run\.json"):
        Predictions(folder, RUN)
    (folder / "run.json").write_text(content)
    with pytest.raises(UsageError):
        Predictions(folder, RUN)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        Predictions(tmp_path / "file" / "p", RUN).of(task_of())


def test_without_a_folder_answers_are_in_memory_only() -> None:
    task = task_of()
    kept = Predictions(None, RUN).of(task)
    kept.add(task.items[1], "Bob", 1, ranked=True)
    assert kept.answers == {1: "Bob"} and kept.ranks == {1: 1}


def test_figures_by_group_and_of_evidence() -> None:
    task = task_of(4)
    kept = Predictions(None, RUN).of(task)
    for item, answer, rank in zip(
        task.items, ("Bob", "Al", "the Bob", "Bob Al"), (1, 2, 6, None), strict=True
    ):
        kept.add(item, answer, rank, ranked=True)
    figures = figures_of(task, kept, range(4))
    assert list(figures) == ["", "0-4k", "4-8k", "8k+"]
    assert {group: found["qa_f1"].mean for group, found in figures.items()} == {
        "": pytest.approx((1 + 0 + 1 + 2 / 3) / 4),
        "0-4k": 1.0,
        "4-8k": 0.0,
        "8k+": pytest.approx((1 + 2 / 3) / 2),
    }
    whole = figures[""]
    assert whole["evidence_first"].mean == 1 / 4
    assert whole["evidence_five"].mean == 2 / 4
    assert whole["evidence_mrr"].mean == pytest.approx((1 + 1 / 2 + 1 / 6) / 4)
    assert figures_of(task, kept, range(2))[""]["qa_f1"].mean == 1 / 2


def test_groups_are_in_order_whatever_that_of_the_records() -> None:
    task = task_of(4)
    task = replace(task, items=task.items[::-1])
    kept = Predictions(None, RUN).of(task)
    kept.answers.update(dict.fromkeys(range(4), "Bob"))
    assert list(figures_of(task, kept, range(4))) == ["", "0-4k", "4-8k", "8k+"]


def test_the_standard_error_is_that_of_the_mean_and_always_the_same() -> None:
    values = [0.0, 1.0] * 50
    figure = figure_of(values)
    assert figure == figure_of(values)
    assert figure.error == pytest.approx(0.05, rel=0.1)  # sqrt(0.25 / 100)
    assert figure_of([1.0, 1.0]).error == 0.0
    assert figure_of([1.0]).error is None
    assert RESAMPLED == 1000


def test_differences_are_those_of_the_same_questions() -> None:
    task = task_of(4)
    figures = {}
    for method, answers in {"a": ("Bob", "Bob", "Bob", "x"), "b": ("Bob", "x", "Bob", "x")}.items():
        kept = Predictions(None, RUN).of(task)
        for item, answer in zip(task.items, answers, strict=True):
            kept.add(item, answer, 1, ranked=method == "a")
        figures[method] = {task.name: figures_of(task, kept, range(4))}
    found = differences(figures)
    assert found.keys() == {"a - b"}
    assert found["a - b"]["hotpotqa_e"]["qa_f1,none"] == 1 / 4
    # One difference of 1 among four: far from the error of means that vary on their own.
    assert found["a - b"]["hotpotqa_e"]["qa_f1_stderr,none"] == pytest.approx(0.217, abs=0.02)
    assert "evidence_first,none" not in found["a - b"]["hotpotqa_e"]
    assert differences({"a": figures["a"]}) == {}


def test_results_have_the_layout_of_the_harness(tmp_path: Path) -> None:
    task = task_of(2)
    kept = Predictions(None, RUN).of(task)
    for item in task.items:
        kept.add(item, "Bob", None, ranked=False)
    figures = {task.name: figures_of(task, kept, range(2))}
    results = results_object(
        [task], figures, {task.name: 2}, {task.name: 32}, RUN, version="1", seconds=2.0
    )
    assert results["results"] == {
        "hotpotqa_e": {"alias": "hotpotqa_e", "qa_f1,none": 1.0, "qa_f1_stderr,none": 0.0},
        "hotpotqa_e/0-4k": {
            "alias": "hotpotqa_e/0-4k", "qa_f1,none": 1.0, "qa_f1_stderr,none": "N/A",
        },
        "hotpotqa_e/4-8k": {
            "alias": "hotpotqa_e/4-8k", "qa_f1,none": 1.0, "qa_f1_stderr,none": "N/A",
        },
    }  # fmt: skip
    assert results["n-samples"] == {"hotpotqa_e": {"original": 2, "effective": 2}}
    assert results["versions"] == {"hotpotqa_e": 1} and results["n-shot"] == {"hotpotqa_e": 0}
    assert results["configs"]["hotpotqa_e"]["generation_kwargs"] == {"max_gen_toks": 32}
    other = json.loads(json.dumps(results).replace("hotpotqa_e", "trec"))
    stale = json.loads(json.dumps(results).replace("0-4k", "8k+"))
    path = tmp_path / "results.json"
    assert with_earlier(results, path) == results
    path.write_text(json.dumps(other))
    merged = with_earlier(results, path)
    assert merged["versions"] == {"hotpotqa_e": 1, "trec": 1} and len(merged["results"]) == 6
    for left_out in (json.dumps(stale), "{", "[]", '{"results": 5}'):
        path.write_text(left_out)
        assert with_earlier(results, path) == results
    with pytest.raises(ResourceError, match="cannot be read: Is a directory"):
        with_earlier(results, tmp_path)
    assert results["config"]["method"] == {"window": 16}
    assert set(results) == {
        "results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config",
        "lmi_version", "total_evaluation_time_seconds",
    }  # fmt: skip
