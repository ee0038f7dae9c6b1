"""What is hidden: the same on every machine, told apart from the rest, scored as published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.errors import UsageError
from lmi_cli.tasks.needles import NEEDLES, VALUES, Needle, key_for

ALL = [Needle(name, values) for name in NEEDLES for values in (None, *VALUES)]


def test_keys_are_fixed_by_their_place_in_the_grid() -> None:
    keys = {
        key_for(seed, length, depth, trial)
        for seed in (0, 1)
        for length in (4000, 8000)
        for depth in (0, 25.0, 50)
        for trial in range(4)
    }
    assert len(keys) > 44
    assert all(len(key) == 5 and key[0] != "0" and key.isdecimal() for key in keys)
    assert key_for(0, 4000, 50, 0) == key_for(0, 4000, 50.0, 0) == "89201"
    assert Needle().quiz(0, 4000, 50, 0).expected == ("89201",)


@given(needle=st.sampled_from(ALL), trial=st.integers(0, 99))
def test_what_is_expected_is_hidden_once_and_asked_for_by_name(needle: Needle, trial: int) -> None:
    quiz, again = (needle.quiz(3, 4000, 50.0, trial) for _ in range(2))
    assert quiz == again != needle.quiz(3, 4000, 50.0, trial + 1)
    kind = needle.kind
    assert len(set(quiz.expected)) == len(quiz.expected) == kind.asked * kind.per_key
    assert len(set(quiz.needles)) == len(quiz.needles) == kind.keys * kind.per_key
    for value, text in zip(quiz.expected, quiz.needles, strict=False):
        assert text.startswith(kind.gap) and value in text
    assert all(value not in quiz.question + quiz.introduction for value in quiz.expected)
    for text in (quiz.introduction, quiz.question, *quiz.needles):
        assert "{kind" not in text and "{key" not in text


@pytest.mark.parametrize("name", list(NEEDLES))
def test_no_value_is_also_a_name(name: str) -> None:
    needle = Needle(name, "words")
    for trial in range(200):
        quiz = needle.quiz(0, 4000, 50.0, trial)
        for value in quiz.expected:
            assert sum(value in text for text in quiz.needles) == 1
            assert value not in quiz.question


def test_the_words_of_ruler() -> None:
    one = Needle("multi-key").quiz(0, 1, 0, 0)
    assert len(one.needles) == 4 and len(one.expected) == 1
    assert one.introduction.startswith("A special magic number is hidden within the following")
    key = one.needles[0].removeprefix("\nOne of the special magic numbers for ").partition(" ")[0]
    assert one.needles[0].endswith(f" for {key} is: {one.expected[0]}.")
    assert one.question == (
        f"\nWhat is the special magic number for {key} mentioned in the provided text? The special "
        f"magic number for {key} mentioned in the provided text is"
    )
    values = Needle("multi-value", "uuids").quiz(0, 1, 0, 0)
    assert len({text.partition(" is: ")[0] for text in values.needles}) == 1
    assert values.introduction.startswith("Some special magic uuids are hidden")
    queries = Needle("multi-query", "words").quiz(0, 1, 0, 0)
    assert "What are all the special magic words for " in queries.question
    assert queries.question.count(", and ") == 2
    assert queries.question.endswith("mentioned in the provided text are")
    assert Needle("multi-query").answer_tokens == 128 and Needle().answer_tokens == 12


def test_a_pair_is_json() -> None:
    quiz = Needle("key-value").quiz(0, 1, 0, 0)
    key, value = quiz.needles[0].strip().rstrip(",").split(": ")
    assert value == f'"{quiz.expected[0]}"' and f"Key: {key}\n" in quiz.question
    assert quiz.introduction.endswith("{") and quiz.question.startswith("\n}")


@pytest.mark.parametrize("values", VALUES)
def test_others_are_never_asked_for(values: str) -> None:
    needle = Needle("multi-key", values)
    others = needle.others(0)
    texts = [next(others) for _ in range(200)]
    assert texts[0] == next(needle.others(0))
    for trial in range(5):
        quiz = needle.quiz(0, 4000, 0, trial)
        key = quiz.question.partition(" for ")[2].partition(" ")[0]
        assert not any(f" for {key} is" in text or quiz.expected[0] in text for text in texts)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("17262.", True),
        (" 17262", True),
        ("it is 17262, not 1", True),
        ("172620", False),
        ("1 17262", False),
        ("none", False),
        ("", False),
    ],
)
def test_the_first_integer_counts(answer: str, correct: bool) -> None:
    assert Needle().score(answer, ("17262",)) == correct


def test_other_values_need_only_be_contained() -> None:
    assert Needle("passkey", "words").score("It is Quiet-Harbour.", ("quiet-harbour",)) == 1
    assert Needle("multi-value").score("1234567 and 7654321", ("1234567", "2", "9", "8")) == 0.5
    assert Needle("single").score("1 1234567", ("1234567",)) == 1


@pytest.mark.parametrize(("name", "values"), [("nail", None), ("passkey", "colours")])
def test_unknown_names(name: str, values: str | None) -> None:
    with pytest.raises(UsageError, match="unknown value"):
        Needle(name, values)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("passkey", "words", "amber-orchard"),
        ("single", None, "4997038"),
        ("key-value", None, "2bcc064f-ee42-40d3-89d3-5e66c820594f"),
    ],
)
def test_values_are_those_of_any_machine(name: str, values: str | None, expected: str) -> None:
    assert Needle(name, values).quiz(0, 4000, 50.0, 0).expected == (expected,)
