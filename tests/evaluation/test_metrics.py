"""Every metric, against values worked out by hand."""

import tempfile
from pathlib import Path

import pytest

from lmi_cli.errors import UsageError
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.metrics import table
from lmi_cli.evaluation.metrics.table import METRICS, require_libraries, scores_of


def score(metric: str, answer: str, *right: str, classes: tuple[str, ...] = ()) -> float:
    item = EvalItem("t", 0, "here", "?", answers=right, classes=classes)
    return scores_of(answer, item, TaskSettings((metric,)))[metric]


MAT = "the cat sat on the mat", "the cat was on a mat"
CLASSES = ("Food", "Color", "Other entity", "entity")


@pytest.mark.parametrize(
    ("metric", "answer", "right", "expected"),
    [
        # cat sat on mat / cat on mat: 3 words of 4 and of 3.
        ("qa_f1", "The cat sat on the mat.", ["a cat, on mat"], 6 / 7),
        ("qa_f1", "no cat no cat", ["cat"], 2 / 5),
        ("qa_f1", "", ["cat"], 0.0),
        ("qa_f1", "the", ["a"], 0.0),  # nothing is left of either
        ("qa_f1", "dog", ["cat", "big dog", "dog"], 1.0),
        ("exact_match", " The  CAT! ", ["cat"], 1.0),
        ("exact_match", "cats", ["cat"], 0.0),
        ("contains", "It is New-York, I think", ["newyork"], 1.0),
        ("contains", "a category", ["cat"], 0.0),
        ("contains", "It is \u201cParis\u201d.", ["Paris"], 1.0),
        ("contains", "It is Paris\u2014the capital", ["paris"], 1.0),
        ("contains", "I don\u2019t know", ["don't know"], 1.0),
        ("contains", "答案是巴黎。", ["巴黎"], 1.0),
        ("contains", "答案是黎巴嫩。", ["巴黎"], 0.0),
        ("contains", "the big cat sat", ["Big cat"], 1.0),
        ("word", 'it is {"abc-1"}.', ["abc-1"], 1.0),
        ("word", "abc-12", ["abc-1"], 0.0),
        ("word_upper", "It is Bob.", ["BOB"], 1.0),
        ("word_upper", "It is Bobby.", ["BOB"], 0.0),
        ("retrieval", "Paragraph 7, or 12", ["Paragraph 7"], 1 / 2),
        ("retrieval", "seven", ["Paragraph 7"], 0.0),
        ("retrieval", "7", ["seven"], 0.0),
        ("retrieval_zh", "段落3", ["段落3"], 1.0),
        ("count", "5 of 10, so 5", ["5"], 2 / 3),
        ("count", "five", ["5"], 0.0),
        ("first_integer", "it is 42, not 43", ["42"], 1.0),
        ("first_integer", "it is 42, not 43", ["43"], 0.0),
        ("first_number", "0.50 or so", ["0.5"], 1.0),
        ("first_number", "none", ["0.5"], 0.0),
        ("last_integer", "The result is -12.", ["-12"], 1.0),
        ("last_integer", "about 12 apples", ["12"], 0.0),
        ("calculation", "1, 5, 9, 4", ["1", "5", "8", "4"], 2 / 4),
        ("calculation", "", ["1", "5"], 0.0),
        ("string_match_all", "12 and\x0134", ["12", "34", "56"], 2 / 3),
        ("string_match_all", "alpha", ["ALPHA"], 1.0),
        ("string_match_part", "12 and 34", ["99", "34"], 1.0),
        ("string_match_part", "12 and 34", ["99"], 0.0),
        ("choice", "B. It is Bob", ["Bob", "B"], 1.0),
        ("choice", "A or B", ["Bob", "B"], 0.0),
        ("choice", " bob jones\n", ["bob jones", "B"], 1.0),
        ("choice", "I think the answer is: Bob Jones", ["Bob", "B"], 1.0),
        ("choice", "it must be B then", ["Bob", "B"], 1.0),
        ("choice", "", ["Bob", "B"], 0.0),
        ("choice", "the answer is", ["Bob", "B"], 0.0),
        ("choice_or_name", "\nC. run", ["run", "C"], 1.0),
        ("choice_or_name", "The answer is: run", ["run", "C"], 1.0),
        ("choice_or_name", "run", ["run", "C"], 0.0),
        ("letter", "B", ["B. both"], 1.0),
        ("letter", "It is C.", ["B"], 0.0),
        ("letter", "BC", ["B"], 0.0),
        ("letter", "B or C", ["B"], 1.0),
        ("letter", "", ["A"], 0.0),
        ("letters", "B", ["B"], 1.0),
        ("letters", "BC", ["B"], 0.0),
        ("letters", "CA", ["AC"], 1.0),
        ("letters", "A. one and C. three", ["AC"], 1.0),
        ("letters", "A and C.\n\nQuestion: which of B. and D.", ["AC"], 1.0),
        ("letters", "I say A) or C", ["A"], 1.0),  # nothing is behind the last letter
        ("letters", "", ["A"], 0.0),
        # Eleven of twelve characters are the same: 2 * 11 / 24, in hundredths.
        ("code_sim", "\n# why\nreturn x + 1\nmore", ["return x + 2"], 0.92),
        ("code_sim", "# nothing else", ["x"], 0.0),
        ("code_sim", "", [""], 0.0),
        # "bcd" is the longest block, and "a" is on the other side of it: 2 * 3 / 8.
        ("code_sim", "abcd", ["bcda"], 0.75),
        # Words once each: 5 and 6, of which the, cat, on, mat are common in order.
        ("rouge", MAT[0], [MAT[1]], 8 / 11),
        ("rouge", "", ["cat"], 0.0),
        ("rouge", " . ", ["cat"], 0.0),
        ("rouge_1", MAT[0], [MAT[1]], 4 / 6),
        ("rouge_2", MAT[0], [MAT[1]], 1 / 5),
        ("rouge_l", MAT[0], [MAT[1]], 4 / 6),
        ("rouge_l_sum", "the cat\nsat on", ["the cat\nran on"], 3 / 4),
        ("char_f1_zh", "北京大学。", ["北京"], 4 / 6),
        ("char_f1_zh", "《北京》", ["北京"], 4 / 5),  # the first mark is not left out
        # 我 来到 北京 清华大学 / 北京 清华大学
        ("qa_f1_zh", "我来到北京清华大学", ["北京,清华大学。"], 4 / 6),
        ("rouge_zh", "我来到北京清华大学", ["北京清华大学"], 4 / 6),
    ],
)
def test_metric(metric: str, answer: str, right: list[str], expected: float) -> None:
    assert score(metric, answer, *right) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("Other entity", "Other entity", 1.0),  # which contains the name of another class
        ("Other entity or Food", "Other entity", 1 / 2),
        ("Food, Color, entity", "Color", 1 / 3),
        ("Food", "Color", 0.0),
        ("nothing", "Color", 0.0),
    ],
)
def test_classification(answer: str, right: str, expected: float) -> None:
    assert score("classification", answer, right, classes=CLASSES) == expected


def test_every_metric_is_tested_here() -> None:
    (mark,) = test_metric.pytestmark  # type: ignore[attr-defined]
    tested = {case[0] for case in mark.args[1]}
    assert set(METRICS) - tested == {"classification", "match"}


def test_of_some_answers_only_the_first_line_counts() -> None:
    item = EvalItem("t", 0, "here", "?", answers=("blue",))
    settings = TaskSettings(("qa_f1",), first_line=True)
    assert scores_of("\n\nblue\nQuestion: red?", item, settings) == {"qa_f1": 1.0}
    assert scores_of("\n", item, settings) == {"qa_f1": 0.0}


def test_a_library_that_is_missing_is_named_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table, "find_spec", lambda name: None if name == "rouge" else object())
    require_libraries("t", TaskSettings(("qa_f1", "rouge_1", "qa_f1_zh")))
    for metric in ("rouge", "rouge_zh"):
        with pytest.raises(UsageError, match="t is scored with rouge, which is not") as caught:
            require_libraries("t", TaskSettings((metric,)))
        assert caught.value.hint == "pip install 'lmi[eval]'"


def test_the_cutter_reads_no_cache_that_others_could_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jieba

    from lmi_cli.evaluation.metrics import chinese

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "jieba.cache").write_bytes(b"not what it expects")
    monkeypatch.setattr(jieba, "dt", jieba.Tokenizer())
    monkeypatch.setattr(jieba, "cut", jieba.dt.cut)
    chinese._cutter.cache_clear()
    assert score("qa_f1_zh", "我来到北京", "北京") == 1 / 2
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
    chinese._cutter.cache_clear()
