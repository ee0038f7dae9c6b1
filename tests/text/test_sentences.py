"""Sentences and words."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.text.sentences import is_whole, sentences, words


def split(text: str) -> list[str]:
    return [text[begin:end] for begin, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["Mr. Knightley came at 3.5 p.m. yesterday.", '"He went!"', "She said no."],
        ["It is J. R. Smith et al. who found it.", "See Fig. 3 for that."],
        ["Data are read into R.", "For Excel, see below."],
        ["Use read.table for that, e.g. in a loop.", "Done?", "Yes!"],
        ["这是第一句话。", "这是第二句。", "“好的。”", "他说。"],
        ["Она пришла.", "Он ушёл.", "Étaient-ils là?", "Ja."],
    ],
)
def test_sentences(parts: list[str]) -> None:
    joined = "" if "。" in parts[0] else " "
    assert split(joined.join(parts)) == parts


def test_paragraphs_and_items_end_sentences() -> None:
    text = "# Title\n\nOne\ngoes on\n\n- item one\n- item two\n1. First thing\nthere."
    assert split(text) == [
        "# Title", "One\ngoes on", "- item one", "- item two", "1. First thing\nthere.",
    ]  # fmt: skip


def test_a_part_of_a_text() -> None:
    text = "One. Two. Three."
    assert [text[a:b] for a, b in sentences(text, 5, 9)] == ["Two."]


def test_words() -> None:
    text = "The data.frame isn't a 1 e-mail; naïve r2d2, 日本語 ไทย"
    assert words(text) == [
        "the", "data.frame", "isn't", "e-mail", "naïve", "r2d2", "日本", "本語", "ไท", "ทย",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "whole"),
    [("It is.", True), ("“Is it?”", True), ("is it.", False), ("A heading", False), ("", False)],
)
def test_whole(text: str, whole: bool) -> None:
    assert is_whole(text) is whole


@given(st.text(alphabet="aA1 .!?\n\"'()-#。é", max_size=200))
def test_sentences_are_in_order_and_hold_all_but_white_space(text: str) -> None:
    found = list(sentences(text))
    ends = [0, *(end for _, end in found)]
    assert all(end <= begin < stop for end, (begin, stop) in zip(ends, found, strict=False))
    outside = list(text)
    for begin, end in found:
        outside[begin:end] = " " * (end - begin)
    assert not [char for char in outside if char.isalpha()]


@pytest.mark.parametrize("unit", ["a. ", "A. ", ". ", "\n", "1.\n", "。", "(", "ab ", "#\n\n"])
def test_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * count
        started = time.perf_counter()
        list(sentences(text))
        words(text)
        return time.perf_counter() - started

    seconds(1_000)
    assert seconds(80_000) < 40 * max(seconds(8_000), 0.002)
