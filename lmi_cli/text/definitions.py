"""The definitions that a line of source code stands in. Imports the standard library only."""

import re

_DEFINITION = re.compile(
    r"^([ \t]*)"
    r"(?:(?:export|default|public|private|protected|static|abstract|final|async|pub)[ \t]+){0,4}"
    r"(?:class|def|function|func|fn|struct|enum|trait|interface|impl|module|namespace)[ \t]+"
    r"([A-Za-z_]\w*)",
    re.M,
)
_TAB_COLUMNS = 4


def definitions_around(text: str, begin: int, offset: int) -> list[str]:
    """Names of the classes and functions that a line stands in, the outermost first.

    A line stands in the definitions before it that are indented less, as it is written in most
    languages.

    Args:
        text: The text.
        begin: Offset at which the source begins.
        offset: An offset in the line.
    """
    line = max(begin, text.rfind("\n", begin, offset) + 1)
    end = text.find("\n", offset)
    inner = _indentation(text[line : len(text) if end < 0 else end])
    found: list[tuple[int, str]] = []
    for match in _DEFINITION.finditer(text, begin, line):
        indentation = _indentation(match[1])
        while found and found[-1][0] >= indentation:
            found.pop()
        found.append((indentation, match[2]))
    return [name for indentation, name in found if indentation < inner]


def _indentation(line: str) -> int:
    """Columns in front of the first visible character."""
    line = line.expandtabs(_TAB_COLUMNS)
    return len(line) - len(line.lstrip())
