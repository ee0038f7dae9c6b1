"""Files of records: each form is recognised by its fields; every fault names file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.files import FORMS, EvalTask, read_tasks
from lmi_cli.evaluation.forms import longbench, ruler
from lmi_cli.evaluation.forms.base import RecordFile
from lmi_cli.evaluation.item import GoldPlace

Record = dict[str, Any]
OWN = {"document": "a.txt", "question": "What?", "answers": ["x"]}
LONGBENCH = {
    "input": "Who?", "context": "Text.", "answers": ["Bob"], "all_classes": None, "length": 1,
    "dataset": "hotpotqa", "language": "en", "_id": "z",
}  # fmt: skip
LEVAL = {
    "instructions": ["Q1", "Q2"], "outputs": ["A", "B"], "input": "T", "source": "s",
    "evaluation": "exam",
}  # fmt: skip
RULER = {"index": 3, "input": "A 12.\nWhich?", "outputs": ["12"], "length": 9}
INFINITE = {"id": 4, "context": "T", "input": "Which?", "answer": ["7"], "options": []}
QASPER = {
    "title": "T",
    "full_text": [{"section_name": "Intro", "paragraphs": ["One.", "Two."]}],
    "qas": [
        {
            "question": "How?",
            "question_id": "q1",
            "answers": [
                {"answer": {"unanswerable": False, "yes_no": True, "free_form_answer": ""}},
                {"answer": {"unanswerable": True, "yes_no": None}},
                {"answer": {"unanswerable": False, "free_form_answer": "So.", "yes_no": None}},
                {"answer": {"extractive_spans": ["a", "b"], "free_form_answer": ""}},
            ],
        }
    ],
}


def _answered(answer: Any) -> Record:
    question = {"question": "How?", "question_id": "q1", "answers": [{"answer": answer}]}
    return {**QASPER, "qas": [question]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("The sky is blue.\n")
    return tmp_path


def tasks(folder: Path, name: str, *records: Record, task: str | None = None) -> list[EvalTask]:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    return read_tasks([(RecordFile(folder / name, task), data)])


def only(folder: Path, name: str, *records: Record) -> EvalTask:
    (task,) = tasks(folder, name, *records)
    return task


def test_own_questions(folder: Path) -> None:
    places: list[Record] = [
        {"page": 3},
        {"lines": [2, 5]},
        {"lines": 4},
        {"passage": "is  (blue)\n"},
        {"passage_pattern": "b.ue"},
        {},
    ]
    task = only(folder, "set.jsonl", *({**OWN, "id": n, **p} for n, p in enumerate(places)))
    assert (task.name, task.form.name) == ("set", "own questions")
    assert task.settings.metrics == ("contains", "qa_f1", "exact_match")
    assert [item.number for item in task.items] == list(range(6))
    golds = [item.gold for item in task.items]
    assert golds[:3] == [GoldPlace(page=3), GoldPlace(lines=(2, 5)), GoldPlace(lines=(4, 4))]
    for gold, text in ((golds[3], "is (blue)"), (golds[4], "blue")):
        assert gold is not None and gold.passage is not None and gold.passage.search(text)
    assert golds[5] is None
    assert task.items[0].documents == (str(folder / "a.txt"),)
    assert task.form.prediction(task.items[1], "yes") == {
        "id": 1, "question": "What?", "document": "a.txt", "answer": "yes",
    }  # fmt: skip
    one, other = tasks(folder, "set.jsonl", OWN, {**_pattern("B"), "task": "other"})
    assert (one.name, other.name) == ("set", "other")
    assert other.settings.metrics == ("match",)
    assert other.items[0].pattern is not None and other.items[0].pattern.search("b")


def _pattern(text: str) -> Record:
    return {"document": "a.txt", "question": "What?", "pattern": text}


def test_longbench(folder: Path) -> None:
    task = only(folder, "any.jsonl", LONGBENCH)
    assert task.settings == longbench.TASKS["hotpotqa"] and task.name == "hotpotqa"
    (item,) = task.items
    assert (item.question, item.text, item.answers) == ("Who?", "Text.", ("Bob",))
    assert task.form.prediction(item, "Al") == {
        "pred": "Al", "answers": ["Bob"], "all_classes": None, "length": 1, "_id": "z",
    }  # fmt: skip
    trec = {**LONGBENCH, "dataset": "trec", "all_classes": ["Bob", "Al"]}
    assert only(folder, "trec.jsonl", trec).items[0].classes == ("Bob", "Al")


def test_longbench_e_is_scored_by_length(folder: Path) -> None:
    lengths = (3999, 4000, 8000)
    task = only(folder, "hotpotqa_e.jsonl", *({**LONGBENCH, "length": n} for n in lengths))
    assert [item.group for item in task.items] == ["0-4k", "4-8k", "8k+"]
    assert task.settings == longbench.TASKS["hotpotqa"]
    assert task.form.file_name(task.name) == "longbench_e/hotpotqa.jsonl"
    assert task.form.words_name(task.name) == "hotpotqa"


def test_the_published_lengths_and_metrics_of_longbench() -> None:
    by_length: dict[int | None, set[str]] = {}
    for name, settings in longbench.TASKS.items():
        by_length.setdefault(settings.answer_tokens, set()).add(name)
    assert by_length == {
        32: {"hotpotqa", "2wikimqa", "musique", "triviaqa", "passage_count",
             "passage_retrieval_en", "passage_retrieval_zh"},
        64: {"multifieldqa_en", "multifieldqa_zh", "trec", "lsht", "lcc", "repobench-p"},
        128: {"narrativeqa", "qasper", "dureader", "samsum"},
        512: {"gov_report", "qmsum", "multi_news", "vcsum"},
    }  # fmt: skip
    plain = {name for name, settings in longbench.TASKS.items() if not settings.chat}
    assert plain == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    lines = {name for name, settings in longbench.TASKS.items() if settings.first_line}
    assert lines == {"trec", "triviaqa", "samsum", "lsht"}


def test_leval_has_many_questions_about_one_text(folder: Path) -> None:
    task = only(folder, "tpo.jsonl", LEVAL)
    assert task.name == "tpo: exam" and task.settings.metrics == ("letter",)
    assert [item.answers for item in task.items] == [("A",), ("B",)]
    assert len({item.subject for item in task.items}) == 1
    assert task.form.file_name(task.name) == "tpo.exam.pred.jsonl"
    assert task.form.prediction(task.items[0], "A") == {
        "query": "Q1", "gt": "A", "evaluation": "exam", "lmi_pred": "A",
    }  # fmt: skip
    assert only(folder, "coursera.jsonl", LEVAL).settings.metrics == ("letters",)
    for outputs in (["A dog barks", "B"], ["Bob", "A"], ["12", "13"]):
        words = only(folder, "x.jsonl", {**LEVAL, "outputs": outputs})
        assert words.name == "x: exam without letters"
    for outputs in (["(A) dog", "B. cat"], ["AB", "C)"]):
        assert only(folder, "x.jsonl", {**LEVAL, "outputs": outputs}).name == "x: exam"
    numbers = only(folder, "gsm.jsonl", {**LEVAL, "outputs": ["12", "13"]})
    assert numbers.settings.metrics == ()  # the published script looks for them in its own way


def test_ruler_keeps_the_text_and_ends_with_the_question(folder: Path) -> None:
    record = {**RULER, "answer_prefix": " It is"}
    task = only(folder, "niah_single_1.jsonl", record)
    (item,) = task.items
    assert item.text + item.question == "A 12.\nWhich? It is"
    assert task.settings.answer_tokens == 128
    assert task.form.prediction(item, "12") == {"others": {}, **record, "pred": "12"}
    for name in ("niah_multikey_2", "vt", "cwe", "fwe", "qa_2"):
        (found,) = tasks(folder / name, "validation.jsonl", RULER)
        assert found.name == name and found.settings in ruler._FAMILIES.values()


def test_infinitebench(folder: Path) -> None:
    task = only(folder, "passkey.jsonl", {**INFINITE, "answer": 7})
    assert task.items[0].answers == ("7",) and task.settings.answer_tokens == 6
    assert task.form.file_name("passkey") == "preds_passkey.jsonl"
    assert task.form.prediction(task.items[0], "7") == {
        "id": 4, "prediction": "7", "ground_truth": 7,
    }  # fmt: skip
    nested = {**INFINITE, "answer": [[1, -2, 3]]}
    (item,) = only(folder, "math_calc.jsonl", nested).items
    assert item.answers == ("1", "-2", "3") and item.row["ground_truth"] == [[1, -2, 3]]
    choice = {**INFINITE, "answer": ["two"], "options": ["one", "two"]}
    (item,) = only(folder, "longbook_choice_eng.jsonl", choice).items
    assert item.answers == ("two", "B")
    assert item.asked == "Which?\nA. one\nB. two"
    assert item.fields == {"OPTION_A": "one", "OPTION_B": "two"}


@pytest.mark.parametrize("columns", [False, True])
def test_qasper_as_it_is_released_and_as_a_table(folder: Path, columns: bool) -> None:
    record = _in_columns(QASPER) if columns else QASPER
    task = only(folder, "dev.jsonl", record)
    assert task.name == "qasper" and task.settings.answer_tokens == 30
    (item,) = task.items
    assert item.text == "Intro One. Two. "
    assert item.answers == ("Yes", "Unanswerable", "So.", "a, b")
    assert task.form.prediction(item, "\nYes\nQuestion:") == {
        "question_id": "q1", "predicted_answer": "Yes", "predicted_evidence": [],
    }  # fmt: skip
    data = json.dumps({"1234.5678": QASPER, "9999.0000": QASPER}).encode()
    (released,) = read_tasks([(RecordFile(folder / "qasper-dev.json"), data)])
    assert len(released.items) == 2


def _in_columns(paper: Record) -> Record:
    question = paper["qas"][0]
    answers = {"answer": [each["answer"] for each in question["answers"]]}
    return {
        "full_text": {"section_name": ["Intro"], "paragraphs": [["One.", "Two."]]},
        "qas": {"question": ["How?"], "question_id": ["q1"], "answers": [answers]},
    }


def test_forms_do_not_claim_each_other() -> None:
    from lmi_cli.evaluation.row import Row

    for record in (OWN, LONGBENCH, LEVAL, RULER, INFINITE, QASPER):
        assert sum(form.fits(Row(record, "")) for form in FORMS) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "r.jsonl: the file is empty"),
        (b"\n \n", "r.jsonl: the file is empty"),
        (b"[]", "r.jsonl: no question in this file"),
        (b'{"full_text": [{"section_name": "x", "paragraphs": ["y"]}], "qas": []}', "no question"),
        (b"\x89PNG\0\0", "r.jsonl: a binary file"),
        (b'{"a": 1}\n', "r.jsonl line 1: a record of no known form; its fields are a"),
        (b"[1]\n", "r.jsonl line 1 record 1: not a JSON object"),
        (b'"text"\n', "r.jsonl line 1: not a JSON object"),
        (b'\n{"a": \n', "r.jsonl line 2: not JSON"),
        (b'{"a": NaN}\n', "r.jsonl line 1: not JSON: NaN"),
        (b"[" * 100_000 + b"\n", "r.jsonl line 1: not JSON: nested too deeply"),
        (b'{"a": "\xe9"}\n', "r.jsonl line 1: not UTF-8 text"),
        (b'{"a": 1' + b"1" * 5000 + b"}\n", "r.jsonl line 1: not JSON"),
    ],
)
def test_faults_of_a_file(folder: Path, data: bytes, said: str) -> None:
    with pytest.raises(NoInputError) as caught:
        read_tasks([(RecordFile(folder / "r.jsonl"), data)])
    assert said in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "record", "said"),
    [
        ("r", {**OWN, "question": ""}, "'question' is empty"),
        ("r", {**OWN, "question": 7}, "'question' is not a text"),
        ("r", {**OWN, "answers": [7]}, "'answers' is no list of texts"),
        ("r", {**OWN, "answers": []}, "'answers' is empty"),
        ("r", {**OWN, "document": "b.txt"}, "there is no document"),
        ("r", {**OWN, "pattern": "x"}, "both 'answers' and a 'pattern'"),
        ("r", {**OWN, "document": ""}, "'document' is empty"),
        ("r", {**OWN, "document": ["a.txt", " "]}, "'document' is empty"),
        ("r", {**OWN, "answers": ["x", ""]}, "the right answer '' has no word to look for"),
        ("r", {**OWN, "answers": ["the"]}, "the right answer 'the' has no word to look for"),
        ("r", {**OWN, "answers": ["!"]}, "the right answer '!' has no word to look for"),
        ("r", {**OWN, "document": ["a.txt"] * 2, "page": 1}, "say nothing about several"),
        ("r", {**OWN, "page": 0}, "'page' is not a whole number from 1 on"),
        ("r", {**OWN, "page": True}, "'page' is not a whole number"),
        ("r", {**OWN, "page": 1, "lines": 3}, "given twice: page and lines"),
        ("r", {**OWN, "lines": [5, 2]}, "'lines' ends before it begins"),
        ("r", {**OWN, "lines": "5"}, "'lines' is neither a line nor"),
        ("r", {**OWN, "passage_pattern": "("}, "'passage_pattern' is not a regular expression"),
        ("r", {**OWN, "passage_pattern": "[[a]"}, "'passage_pattern' is not a regular expression"),
        ("r", {**OWN, "task": "a/b"}, "cannot be the name of a file"),
        ("r", {**OWN, "task": ".."}, "cannot be the name of a file"),
        ("r", {**OWN, "task": "é" * 61}, "cannot be the name of a file"),
        ("r", {"document": "a.txt", "question": "?"}, "there is nothing to score"),
        ("r", {**LONGBENCH, "dataset": "x"}, "LongBench has no task 'x'"),
        ("r", {**LONGBENCH, "dataset": "trec"}, "'all_classes' is no list of texts"),
        ("r", {**LONGBENCH, "context": " "}, "'context' is empty"),
        ("r_e", {**LONGBENCH, "length": "9"}, "'length' is not a whole number from 0 on"),
        ("r", {**LEVAL, "outputs": ["A"]}, "2 'instructions', but 1 'outputs'"),
        ("r", RULER, "RULER has no task 'r'"),
        ("vt", {**RULER, "input": "one line"}, "no question on a last line"),
        ("vt", {**RULER, "outputs": ["1", ""]}, "one of the 'outputs' is empty"),
        ("vt", {**RULER, "outputs": [None]}, "'outputs' is neither a text, a number nor"),
        ("r", INFINITE, "InfiniteBench has no task 'r'"),
        ("longbook_choice_eng", INFINITE, "'answer' is not one of the first four 'options'"),
        ("r", {**QASPER, "full_text": []}, "'full_text' is empty"),
        ("r", {**QASPER, "full_text": {"section_name": ["x"]}}, "'paragraphs' is missing"),
        ("r", {**QASPER, "qas": {"a": [1], "b": []}}, "the columns of 'qas' differ in length"),
        ("r", _answered("text"), "'answer' is not an object"),
        ("r", _answered(None), "'answer' is not an object"),
        ("r", _answered([{"yes_no": True}]), "'answer' is not an object"),
        ("r", _answered({"yes_no": "No"}), "'yes_no' is neither true, false nor null"),
        ("r", _answered({"unanswerable": "no"}), "'unanswerable' is neither true, false"),
        ("r", {**QASPER, "qas": 5}, "'qas' is no list of objects"),
    ],
)
def test_faults_of_a_record(folder: Path, name: str, record: Record, said: str) -> None:
    with pytest.raises(NoInputError) as caught:
        tasks(folder, f"{name}.jsonl", record)
    message = caught.value.message
    assert message.startswith(f"{folder / name}.jsonl line 1: ") and said in message


def test_faults_between_records(folder: Path) -> None:
    with pytest.raises(NoInputError, match=r"line 2: it is not of the form .*'document' and"):
        tasks(folder, "r.jsonl", OWN, LONGBENCH)
    with pytest.raises(NoInputError, match="line 2: the task 'r' is scored in one way"):
        tasks(folder, "r.jsonl", OWN, _pattern("x"))
    with pytest.raises(NoInputError, match="line 2: the tasks 'r' and 'R' share a file of pred"):
        tasks(folder, "r.jsonl", OWN, {**OWN, "task": "R"})
    files = [(RecordFile(folder / f"{n}.jsonl"), json.dumps(r).encode()) for n, r in (
        ("hotpotqa", LONGBENCH), ("r", {**OWN, "task": "hotpotqa"}))]  # fmt: skip
    with pytest.raises(NoInputError, match="the task 'hotpotqa' is one of LongBench as well"):
        read_tasks(files)


def test_the_name_of_a_task_can_be_given(folder: Path) -> None:
    for record, name, words in (
        (RULER, "qa_1", "qa_1"),
        (QASPER, "mine", "qasper"),
        (LONGBENCH, "musique", "musique"),
        (OWN, "mine", "mine"),
        ({**OWN, "task": "other"}, "mine", "mine"),
    ):
        (task,) = tasks(folder, "r.jsonl", record, task=name)
        assert task.name == name and task.form.words_name(name) == words


def test_halves_of_characters_are_replaced(folder: Path) -> None:
    (task,) = tasks(folder, "r.jsonl", {**LONGBENCH, "context": "a\ud800b"})
    assert task.items[0].text == "a\ufffdb"
