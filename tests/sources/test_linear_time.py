"""Patterns over untrusted text need a time in proportion to it.

Each shape has 100,000 characters and takes a few hundredths of a second. Where a pattern tries a
stretch again from each of its characters, it takes minutes, and where it tries it in each
combination, for ever; the limit is far from both.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from lmi_cli.sources.html import main_text
from lmi_cli.sources.ignore import parse
from lmi_cli.sources.page_text import PageText
from lmi_cli.sources.sniff import kind_of

COUNT = 100_000


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < 10


PAGES = {
    "a line of letters between two others": "x\n" + "a" * COUNT + "\ny",
    "letters and digits in turn": "a1" * (COUNT // 2) + "!",
    "dashes": "-" * COUNT,
    "spaces inside a line": "a" + " " * COUNT + "b",
    "dots": ". " * (COUNT // 2) + "x",
    "few dots at a time": " ...." * (COUNT // 5),
    "hyphens": "ab-" * (COUNT // 3) + "\n",
    "broken words": "ab-\n" * (COUNT // 4),
    "hyphens without a word": " -\n" * (COUNT // 3),
    "soft hyphens": "a\u00ad\n" * (COUNT // 3),
    "roman": "iv" * (COUNT // 2),
}


@pytest.mark.parametrize("text", PAGES.values(), ids=PAGES)
def test_text_of_a_page(text: str) -> None:
    assert PageText().clean(text, 1, None)


HEADS = {
    "comments": b"<!---->" * 1000,
    "comments and spaces": b"<!-- --> " * 900,
    "declarations": b"<?xml ?>" * 1000,
    "spaces": b" " * 8000,
    "open comments": b"<!--" * 2000,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_kind_of_a_file(head: bytes) -> None:
    assert kind_of(head, "a.txt") == "text"
    assert kind_of(head.replace(b"<!--<!--", b"") + b"<html>", "a.txt") in ("text", "html")


HTML = {
    "quotes without an end": '<b ="" ="' * (COUNT // 9),
    "tags without an end": "<b " * (COUNT // 3),
    "one tag": "<b " + "a=b " * (COUNT // 4),
    "less-than signs": "<" * COUNT,
    "comments": "<!---->" * (COUNT // 7),
    "open comments": "<!--" * (COUNT // 4),
    "open scripts": "<script>" * (COUNT // 8),
    "nested": "<nav>" * (COUNT // 5) + "</nav>" * (COUNT // 6),
    "entities": "&amp" * (COUNT // 4),
    "numbers": "&#" + "1" * COUNT,
}


@pytest.mark.parametrize("text", HTML.values(), ids=HTML)
@pytest.mark.parametrize("piece", [COUNT, 1000])
def test_html(text: str, piece: int) -> None:
    pieces = (text[at : at + piece] for at in range(0, len(text), piece))
    assert isinstance("".join(main_text(pieces)), str)


IGNORED: dict[str, Callable[[], bytes]] = {
    "spaces": lambda: b"a" + b" " * COUNT + b"b",
    "trailing spaces": lambda: b"a" + b" " * COUNT,
    "backslashes": lambda: b"\\" * COUNT + b" ",
    "brackets": lambda: b"[" * 1000,
    "stars": lambda: b"*a" * 500,
}


@pytest.mark.parametrize("text", IGNORED.values(), ids=IGNORED)
def test_patterns_of_gitignore(text: Callable[[], bytes]) -> None:
    for pattern in parse(text()):
        pattern.matches([b"a" * 255], False)
