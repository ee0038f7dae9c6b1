"""Comments in source files, which say in sentences what code does.

Imports the standard library only.
"""

import re
from collections.abc import Iterator

_SUFFIXES = (
    ".py .pyi .c .h .cc .cpp .hpp .cu .cs .go .java .js .jsx .mjs .ts .tsx .kt .php .pl .pm .r .rb "
    ".rs .scala .sh .bash .sql .swift .lua .hs .jl .m .mm .f90 .zig .toml .yaml .yml .cfg .ini .mk "
    ".cmake .css .scss .proto .json .csv .lock .xml"
)
SOURCE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Of files that hold code, settings or data rather than prose."""

_CLOSED_BY = {'"""': '"""', "'''": "'''", "/*": "*/"}
_OPENING = re.compile(
    r'"""|\'\'\'|/\*'
    r"|(?:^[ \t]*(?://|#(?!!|include|define|if|endif|else|pragma|import)|--|;)[^\n]*(?:\n|\Z))+",
    re.M,
)
_MARK = re.compile(r"^[ \t]*(?://[/!]?|#+|--+|;+|\*+)[ \t]?", re.M)
_LEGAL = re.compile(r"copyright|licen[cs]e|spdx-|all rights reserved|-\*- coding|vim?:", re.I)
_LEGAL_CHARS = 400


def comments(text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int, str]]:
    """Comments of ``text[begin:end]`` with words in them, without licences.

    Strings in three quotation marks count, as Python's documentation stands in them. Takes time in
    proportion to the text.

    Yields:
        The offset of a comment, the offset behind it, and its text without the marks of comments.
    """
    end = len(text) if end is None else end
    closings = dict.fromkeys(_CLOSED_BY, begin)
    at = begin
    while (match := _OPENING.search(text, at, end)) is not None:
        opening, at = match[0], match.end()
        if (closing := _CLOSED_BY.get(opening)) is not None:
            # A closing mark that was found once is not looked for again.
            if 0 <= closings[opening] < at:
                closings[opening] = text.find(closing, at, end)
            if closings[opening] < 0:
                continue
            content, at = text[at : closings[opening]], closings[opening] + len(closing)
        else:
            content = opening
        if opening not in ('"""', "'''"):
            content = _MARK.sub("", content)
        content = content.strip()
        if any(map(str.isalpha, content)) and not _LEGAL.search(content[:_LEGAL_CHARS]):
            yield match.start(), at, content
