"""Sentences and words of a text, with their places. Imports the standard library only."""

import re
from collections.abc import Iterator

# The end of a paragraph ends a sentence whatever it looks like, and so does a line of a list.
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*|\n(?=[ \t]*(?:[-*•–]|#{1,6}|\d{1,2}[.)])[ \t])")
# Chinese and Japanese put no space between sentences.
_END = re.compile(r"[.!?؟।][\"')\]”’»_*]{0,4}(?=\s)|[。！？][\"'”’」』）]{0,4}")
_OPENING = "\"'([“‘«„「『_*¿¡"
_CLOSING = "\"')]”’»」』）_*"
_NEXT = re.compile(rf"\s*[{re.escape(_OPENING)}]{{0,4}}(\w)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:Mr|Mrs|Ms|Dr|Prof|Rev|Col|Capt|Gen|St|Sr|Jr|No|Nos|Vol|Fig|Figs|Eq|Eqs|"
    r"Sec|Ch|pp?|cf|vs|etc|al|e\.g|i\.e|approx|resp)\.$"
    # An initial; "R." at the end of "in R." is none.
    r"|(?:^|[^\W_a-z]\S*\s|[(\"'“‘.]\s?)[A-Z]\.$"
)
_INITIAL, _INITIAL_NEXT = re.compile(r"\b[A-Z]\.$"), re.compile(r"\s*[A-Z]\.")
_NUMBER = re.compile(r"(?:^|\n)[ \t]*(?:[\dIVX]{1,4}|[A-Za-z])(?:\.\d{1,2}){0,3}\.$")
"""At the beginning of a line: the number of a section or of an item."""
_LONGEST_ABBREVIATION = 24
_HEADING_CHARS = 70
_RUNNING_TITLE = re.compile(r"^[^\W\d_a-z].* \d{1,4}$")

# Scripts without spaces between words are compared by pairs of characters.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
"""Accents, points and vowel signs, which are not letters of their own."""
_WORD = re.compile(
    rf"(?P<unspaced>[{_UNSPACED}]+)"
    rf"|[^\W\d_{_UNSPACED}](?:[^\W_{_UNSPACED}]|[{_MARKS}]|[-'’.](?=[^\W_])){{2,}}"
)


def sentences(text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """The sentences of ``text[begin:end]``, as offsets without surrounding white space.

    A full stop ends a sentence if it ends neither a common abbreviation nor an initial, and if what
    follows begins with a digit or with a letter that is not small. Takes time in proportion to the
    text.
    """
    end = len(text) if end is None else end
    start = begin
    for border in _PARAGRAPH.finditer(text, begin, end):
        yield from _in_paragraph(text, start, border.start())
        start = border.end()
    yield from _in_paragraph(text, start, end)


def words(text: str) -> list[str]:
    """The words of three letters or more, in lower case; of unspaced scripts, all pairs of letters.

    A word may contain hyphens, apostrophes and full stops, as names in programs do.
    """
    found = []
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if match["unspaced"]:
            found += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        else:
            found.append(word)
    return found


def is_whole(sentence: str) -> bool:
    """Whether a sentence has a beginning and an end, as a heading or a fragment has not."""
    opening = sentence.lstrip(_OPENING)
    closing = sentence.rstrip(_CLOSING)
    return bool(opening) and not opening[0].islower() and closing[-1:] in tuple(".!?؟।。！？")


def behind_headings(text: str, begin: int, end: int) -> int:
    """The offset behind lines that stand in front of a sentence like headings.

    The text of a PDF has no blank line there. A heading is a short line of its own, and the next
    one begins with a capital. A line that ends with a page number is no part of a sentence either.
    """
    while (stop := text.find("\n", begin, end)) >= 0:
        line, following = text[begin:stop], stop + 1
        own_line = begin == 0 or text[begin - 1] == "\n"
        if any(map(str.isalpha, line)):
            ends = text.find("\n", following, end)
            longer = ends < 0 or ends - following >= len(line)
            heads = longer and text[following : following + 1].isupper()
            running = _RUNNING_TITLE.search(line) is not None
            if not own_line or len(line) > _HEADING_CHARS or not (heads or running):
                return begin
        elif not any(map(str.isdigit, line)):
            return begin
        begin = following
    return begin


def _in_paragraph(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    start = begin
    for stop in _END.finditer(text, begin, end):
        here = stop.end()
        if text[stop.start()] == "." and here == stop.start() + 1:
            before = text[max(start, here - _LONGEST_ABBREVIATION) : here]
            if _ABBREVIATION.search(before) or _NUMBER.search(before):
                continue
            if _INITIAL.search(before) and _INITIAL_NEXT.match(text, here, end):
                continue
        following = _NEXT.match(text, here, end)
        if following and not following[1].islower():
            yield from _trimmed(text, start, here)
            start = here
    yield from _trimmed(text, start, end)


def _trimmed(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    inside = text[begin:end]
    if content := inside.strip():
        first = begin + len(inside) - len(inside.lstrip())
        yield first, first + len(content)
