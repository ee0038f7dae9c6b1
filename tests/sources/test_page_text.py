"""Typesetting undone: ligatures, words broken at line ends, running heads, dot leaders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.sources.page_text import PageText


def clean(*pages, labels=None):
    cleaner = PageText()
    return [
        cleaner.clean(page, number, labels[number - 1] if labels else None)
        for number, page in enumerate(pages, 1)
    ]


def test_ligatures_but_nothing_else_of_compatibility():
    assert clean("e\ufb03cient \ufb01le ½ x²") == ["efficient file ½ x²\n"]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("many fa-\ncilities for all", "many facilities\nfor all"),
        ("many fa-\ncilities, and\nmore", "many facilities,\nand\nmore"),
        ("the end of sen-\ntence.\nNext", "the end of sentence.\nNext"),
        ("soft\u00adware and soft\u00ad\nware", "software and software"),
        ("a self-\ndescribing file", "a self-describing\nfile"),
        ("a well-known and well-\nknown thing", "a well-known and well-known\nthing"),
        ("a quasi-\nlikelihood fit", "a quasi-likelihood\nfit"),
        ("range is DBMS-\nspecific", "range is DBMS-specific"),
        ("a 3-\ndimensional table", "a 3-dimensional\ntable"),
        ("you can cut-and-\npaste it", "you can cut-and-paste\nit"),
        ("the Springer-\nVerlag book", "the Springer-Verlag\nbook"),
        ("https://a.org/foo-\nbar", "https://a.org/foo-\nbar"),
        ("call --no-\nthing", "call --no-\nthing"),
        ("x <- y -\n  z", "x <- y -\n  z"),
        ("- one\n- two", "- one\n- two"),
        ("pages 1-\n2 of it", "pages 1-\n2 of it"),
    ],
)
def test_words_broken_at_line_ends(broken, whole):
    assert clean(broken) == [whole + "\n"]


def test_dot_leaders():
    assert clean("1 Intro . . . . . . . . . 3\n2 End.......9\nand so on...") == [
        "1 Intro ... 3\n2 End ... 9\nand so on...\n"
    ]


WORDS = ["apple", "pear", "plum", "fig", "lime", "kiwi", "date", "melon"]


def test_running_heads_go_on_their_third_page_and_page_numbers_at_once():
    pages = [f"The Book {n}\nAbout {word}.\n{word}!\n{n}" for n, word in enumerate(WORDS, 1)]
    assert clean(*pages) == [
        "The Book 1\nAbout apple.\napple!\n",
        "The Book 2\nAbout pear.\npear!\n",
        *[f"About {word}.\n{word}!\n" for word in WORDS[2:]],
    ]


def test_left_and_right_heads():
    heads = [f"{n} A. Author" if n % 2 == 0 else f"A Title {n}" for n in range(2, 10)]
    pages = [f"{head}\nAbout {word}\n{word}" for head, word in zip(heads, WORDS, strict=True)]
    firsts = [page.split("\n")[0] for page in clean(*pages)]
    assert firsts == [*heads[:4], *[f"About {word}" for word in WORDS[4:]]]


def test_labels_decide_what_the_page_number_is():
    heads = ["Preface iii", "Preface iv", "Preface v", "1", "2 apples"]
    pages = [f"{head}\nAbout {word}\n{word}" for head, word in zip(heads, WORDS, strict=False)]
    firsts = [p.split("\n")[0] for p in clean(*pages, labels=["iii", "iv", "v", "1", "2"])]
    assert firsts == ["Preface iii", "Preface iv", "About plum", "About fig", "2 apples"]


def test_numbers_that_are_not_the_page_stay():
    heads = ["Exercise 7", "Exercise 9", "Exercise 10", "Exercise 13", "Table 1", "Table 1"]
    pages = [f"{head}\nAbout {word}\n{word}" for head, word in zip(heads, WORDS, strict=False)]
    assert [page.split("\n")[0] for page in clean(*pages)] == heads


def test_text_in_the_middle_is_never_taken():
    page = "\n".join(["head", "sub", "third", "same", "same", "same", "a", "b", "foot"])
    assert clean(page, page, page)[2] == "same\nsame\nsame\n"


def test_slides_keep_their_lines():
    assert clean(*["Results"] * 3, "Results\n4") == [*["Results\n"] * 3, "Results\n4\n"]


def test_a_page_number_alone_is_no_text():
    assert clean("1", "\n 2 \n") == ["", ""]


@given(st.lists(st.text(st.sampled_from("ab-\n 1.\u00ad\ufb01/i"), max_size=60), max_size=6))
def test_words_survive_anything(pages):
    for page in clean(*pages):
        assert page == "" or page.endswith("\n")
        assert "\ufb01" not in page
