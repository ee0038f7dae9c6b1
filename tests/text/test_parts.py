"""Headings, and the parts of a document."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.text.parts import Heading, PageWords, headings, parts_of


def titles(text: str) -> list[str]:
    return [heading.title for heading in headings(text)]


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("## Install it", "Install it"),
        ("CHAPTER XII", "CHAPTER XII"),
        ("Chapter 3: The Return", "Chapter 3: The Return"),
        ("VOLUME I", "VOLUME I"),
        ("Appendix A References", "Appendix A References"),
        ("2.1 Variations on read", "2.1 Variations on read"),
        ("4 Relational databases 17", "4 Relational databases"),
    ],
)
def test_headings(line: str, title: str) -> None:
    assert titles(f"Some text.\n\n{line}\n\nMore text.\n") == [title]


@pytest.mark.parametrize(
    "line", ["Chapter and verse.", "3 of them came.", "1.5 metres", "#hashtag", "12 34 56", "A B"]
)
def test_other_lines_are_none(line: str) -> None:
    assert titles(f"Some text.\n\n{line}\n\nMore text.\n") == []


def test_tables_of_contents_and_running_titles_are_none() -> None:
    contents = "".join(f"{number} Chapter about it\n" for number in range(1, 9))
    dotted = "1 Introduction . . . . . . 3\n\n"
    body = "".join(f"1 The beginning {page}\n\nText of a page.\n\n" for page in range(1, 4))
    assert titles(contents + dotted + body) == ["1 The beginning"]


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("Variations on read", "2.1 Variations"),
        ("Page of", "Page of"),
        ("More", "More:"),
        ("Nowhere", "Page of"),
        ("Vari", "Page of"),  # no whole word
        (" ", "Page of"),
    ],
)
def test_a_title_is_found_however_it_is_spaced(title: str, found: str) -> None:
    page = "Page of text\n2.1 Variations\n  on   read\nMore: this"
    text = "before " + page + " behind More"
    assert PageWords(text, 7, 7 + len(page)).find(title) == text.index(found)


def test_the_number_of_a_section_at_the_beginning_of_a_page() -> None:
    text = "x" * 50 + "3.1 Introduction\nfoo"
    assert PageWords(text, 50, len(text)).find("Introduction") == 50


def test_a_heading_within_a_token_belongs_to_the_part_with_that_token() -> None:
    text = "word " * 20 + "Title of it " + "word " * 20
    at = text.index("Title")
    starts = np.arange(0, len(text), 7, dtype=np.int64)
    found = parts_of(text, starts, [0], [Heading(at, "Title of it")], 15)
    (part,) = [part for part in found if "Title of it" in part.titles and not part.continues]
    assert starts[part.first] <= at < starts[part.first] + 7


def test_hostile_lines_take_linear_time() -> None:
    def seconds(count: int) -> float:
        text = "CHAPTER" + " " * count + "I\n" + "a " * count
        started = time.perf_counter()
        headings(text)
        PageWords(text, 0, len(text)).find("a " * 99 + "b")
        return time.perf_counter() - started

    seconds(100)
    assert seconds(80_000) < 40 * max(seconds(8_000), 0.002)


def starts_of(text: str) -> np.ndarray:
    """As if every character were a token."""
    return np.arange(len(text), dtype=np.int64)


def test_parts_end_at_headings_and_sources() -> None:
    sections = ["# One\n" + "word " * 80, "# Two\n" + "word " * 10, "# Three\n" + "word " * 10]
    text = "\n\n".join(sections)
    found = parts_of(text, starts_of(text), [0], headings(text), 240)
    assert [part.titles for part in found] == [("One",), ("One",), ("Two", "Three")]
    assert [part.continues for part in found] == [False, True, False]
    other = text.index("# Three")
    found = parts_of(text, starts_of(text), [0, other], headings(text), 240)
    assert [part.titles for part in found][-2:] == [("Two",), ("Three",)]


def test_a_section_does_not_go_on_in_another_source() -> None:
    text = "# One\n" + "word " * 40 + "\n" + "other " * 40
    at = text.index("other")
    found = parts_of(text, starts_of(text), [0, at], headings(text), 1000)
    assert [(part.titles, part.continues) for part in found] == [(("One",), False), ((), False)]


@given(st.lists(st.sampled_from(["# A\n", "word ", "\n\n", "CHAPTER I\n", "x. "]), max_size=200))
def test_parts_hold_every_token_once(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = parts_of(text, starts_of(text), [0], headings(text), 10)
    edges = [0, *(part.stop for part in found)]
    assert [part.first for part in found] == edges[:-1]
    assert edges[-1] == len(starts_of(text))
    assert [part.number for part in found] == list(range(len(found)))
    assert all(0 < len(part) <= 20 for part in found)


def test_a_given_heading_that_no_line_shows() -> None:
    text = "word " * 50
    found = parts_of(text, starts_of(text), [0], [Heading(0, "All of it")], 1000)
    assert [part.titles for part in found] == [("All of it",)]
