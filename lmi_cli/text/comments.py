"""Comments in source files, which say in sentences what code does.

Imports the standard library only.
"""

import re
from collections.abc import Iterator

_LANGUAGES = (
    # Suffixes, how a line of comment begins, and the marks around blocks.
    (".c .h .cc .cpp .hpp .cu .cs .go .java .js .jsx .mjs .ts .tsx .kt .php .rs .scala .swift .zig "
     ".mm .proto .scss", r"//[/!]?", ("/*",)),
    (".css", None, ("/*",)),
    (".py .pyi", r"#(?!!)", ('"""', "'''")),
    (".jl", r"#", ('"""',)),
    (".r .rb .pl .pm .sh .bash .toml .yaml .yml .mk .cmake", r"#(?!!)", ()),
    (".ini .cfg", r"[#;]", ()),
    (".sql", r"--", ("/*",)),
    (".lua .hs", r"--", ()),
    (".f90", r"!", ()),
    (".m", r"%|//", ("/*",)),
    (".json .csv .lock .xml", None, ()),
)  # fmt: skip
_CLOSED_BY = {'"""': '"""', "'''": "'''", "/*": "*/"}
_NEVER = r"(?!)"


def _patterns(line: str | None, blocks: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    mark = line or _NEVER
    lines = rf"(?:^[ \t]*(?:{mark})[^\n]*(?:\n|\Z))+"
    opening = re.compile("|".join([*map(re.escape, blocks), lines]), re.M)
    return opening, re.compile(rf"^[ \t]*(?:{mark}|[#*%;-]+)[ \t]?", re.M)


_PATTERNS = {
    suffix: _patterns(line, blocks)
    for suffixes, line, blocks in _LANGUAGES
    for suffix in suffixes.split()
}
SOURCE_SUFFIXES = frozenset(_PATTERNS)
"""Of files that hold code, settings or data rather than prose."""

_LEGAL = re.compile(r"copyright|licen[cs]e|spdx-|all rights reserved|-\*- coding|vim?:", re.I)
_LEGAL_CHARS = 400


def comments(
    text: str, begin: int = 0, end: int | None = None, suffix: str = ".py"
) -> Iterator[tuple[int, int, str]]:
    """Comments of ``text[begin:end]`` with words in them, without licences.

    Strings in three quotation marks count in Python, as documentation stands in them. Takes time in
    proportion to the text.

    Args:
        text: A text that contains the code.
        begin: Offset at which the code begins.
        end: Offset at which it ends.
        suffix: Of its file, one of :data:`SOURCE_SUFFIXES`.

    Yields:
        The offset of a comment, the offset behind it, and its text without the marks of comments.
    """
    opening_pattern, mark = _PATTERNS[suffix]
    end = len(text) if end is None else end
    closings = dict.fromkeys(_CLOSED_BY, begin)
    at = begin
    while (match := opening_pattern.search(text, at, end)) is not None:
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
            content = mark.sub("", content)
        content = content.strip()
        if any(map(str.isalpha, content)) and not _LEGAL.search(content[:_LEGAL_CHARS]):
            yield match.start(), at, content
