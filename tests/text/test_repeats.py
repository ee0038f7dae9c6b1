"""Repetition is noticed before it is shown, however the text arrives."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.text.repeats import RepeatGuard


def shown(text: str, step: int, said: str = "") -> tuple[str, bool]:
    guard, parts = RepeatGuard(said), []
    for at in range(0, len(text), step):
        parts.append(guard.push(text[at : at + step]))
    return "".join(parts) + guard.flush(), guard.repeats


@pytest.mark.parametrize("step", [1, 2, 3, 7, 500])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The limit is 65536. The limit is 65536. The limit is", "The limit is 65536."),
        ("The limit is 65536. The limit is 65536.", "The limit is 65536."),
        ("So f.g reads a list of it. So f.g reads a list of all", "So f.g reads a list of it."),
        (
            "The capital of the state of Ohio is Columbus. The capital of the state of Texas is",
            "The capital of the state of Ohio is Columbus. The capital of the state of Texas is",
        ),
        ("一二三。四五六。", "一二三。四五六。"),
        ("Yes. Yes. It is so.", "Yes. Yes. It is so."),
        ("One two three four five six. One two three four five seven.", None),
        ("def f():\n    return 1\ndef f():\n    return 1\n", None),
        ("It is a list.\n\nIt is a list.\n\nIt", "It is a list."),
        ("", None),
        ("\n\n\n  ", None),
        ("no end", None),
    ],
)  # fmt: skip
def test_a_sentence_is_not_said_twice(text: str, kept: str | None, step: int) -> None:
    found, repeats = shown(text, step)
    assert found == (text if kept is None else kept)
    assert repeats == (kept is not None and kept != text) or text.endswith("65536.")


@pytest.mark.parametrize("step", [1, 3, 8, 500])
@pytest.mark.parametrize(
    ("begins", "phrase"),
    [
        ("It is a Christian", " Christian"),
        ("It was made in the same year", ", and in the same year"),
        ("It reads", " a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p,"),
        ("Yes.", " No."),
        ("一二三", "的"),
    ],
)
def test_words_do_not_go_round_in_a_circle(begins: str, phrase: str, step: int) -> None:
    found, repeats = shown(begins + 40 * phrase, step)
    assert repeats
    assert found.startswith(begins)
    assert found.count(phrase.strip()) <= 3


@pytest.mark.parametrize("step", [1, 3, 500])
@pytest.mark.parametrize(
    "text",
    [
        "They had had it, and it was very, very, very good.",
        "No, no, no, no! Ho, ho, ho, said he.",
        "The row is 0 0 0 0 0 0 0 0 1, the next is 0 0 0 0.",
        "A rose is a rose is a rose is a rose",
        "一一二二三三。",
    ],
)
def test_a_few_repetitions_are_kept(text: str, step: int) -> None:
    assert shown(text, step) == (text, False)


@pytest.mark.parametrize("step", [1, 4, 500])
def test_the_question_is_not_repeated_behind_the_answer(step: int) -> None:
    asked = "Which port is used by default?"
    text = f"Port 8080.\n\nQuestion: {asked}\nPort 8080"
    assert shown(text, step, asked) == ("Port 8080.", True)
    restated = "Which port is used by default? Port 8080 is."
    assert shown(restated, step, asked) == (restated, False)


@given(text=st.text(alphabet="ab. \n!", max_size=80), step=st.integers(1, 9))
def test_what_is_shown_is_the_beginning_of_the_text_whatever_the_pieces(
    text: str, step: int
) -> None:
    found, repeats = shown(text, step)
    assert text.startswith(found)
    assert repeats or found == text or text.startswith(found)
    assert found == shown(text, 100)[0]


def test_time_is_linear_in_a_sentence_without_end() -> None:
    """A list without full stops, and one endless word."""
    digits = "".join(random.Random(0).choices("0123456789abcdef", k=80_000))
    for text in ("".join(f"{line},b\n" for line in range(20_000)), digits):
        guard = RepeatGuard("What is in the list?")
        assert guard.push("It is this.") + guard.push("\n") == "It is this."
        started = time.process_time()
        shown = "".join(guard.push(text[at : at + 4]) for at in range(0, len(text), 4))
        assert shown + guard.flush() == "\n" + text
        assert time.process_time() - started < 5
