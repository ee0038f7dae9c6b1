"""Undo what typesetting did to the text of a page: ligatures, broken words, running heads.

Imports only the standard library. Text in the middle of a page is never removed. The first two
appearances of a running head stay; a page number at the edge of a page is removed, because the
block carries the number of the page.
"""

import re

# NFKC would also change superscripts, fractions and much else that carries meaning.
LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\0": None}
)
# All these are linear: a match begins where a run of its characters does, and nothing is retried.
BREAK = re.compile(
    r"[-\u2010\u00ad]\n(?P<tail>[^\W\d_]++)(?P<rest>\S*+)(?P<gap>[^\S\n]*+)(?P<end>\n?)"
)
# The letters or digits at the end of a word that is read backwards.
HEAD = re.compile(r"[^\W\d_]++|\d++")
# The dots between an entry of a table of contents and its page number: forty useless tokens.
LEADER = re.compile(r"(?<![^\S\n])[^\S\n]*+(?:\.[^\S\n]*+){5,}+")
COMPOUND = re.compile(r"(?<![^\W\d_])[^\W\d_]++(?:-[^\W\d_]++)++")
WORD = re.compile(r"[^\W\d_]{4,}")
# First parts of compounds that keep their hyphen in English more often than not.
HYPHENATED = frozenset(
    {"self", "non", "well", "cross", "ex", "high", "low", "so", "one", "two", "quasi"}
)
VOCABULARY_WORDS = 50_000
EDGE_LINES = 3
# Left and right pages have different heads, so each appears on two of the four pages before.
PAGES_BACK = 4
TIMES_BEFORE = 2
NUMERAL = re.compile(
    r"^(?P<before>\d{1,5}|[ivxlc]{1,8})\b\W*|(?<!\W)\W*+\b(?P<after>\d{1,5}|[ivxlc]{1,8})$"
)


class PageText:
    """Cleans the pages of one document in order."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._compounds: set[str] = set()
        self._edges: list[tuple[list[str], list[str]]] = []

    def clean(self, text: str, page: int, label: str | None) -> str:
        """The page's text, ending in a line feed; empty if there was nothing but a page number.

        Args:
            text: The text as extracted by the PDF library.
            page: One-based number of the page.
            label: The number printed on the page, if the file gives it.
        """
        lines = [line.rstrip() for line in text.translate(LIGATURES).split("\n")]
        while lines and not lines[0]:
            lines.pop(0)
        while lines and not lines[-1]:
            lines.pop()
        lines = self._without_running_lines(lines, page, label)
        if not lines:
            return ""
        text = LEADER.sub(" ... ", "\n".join(lines))
        return self._joined(text).replace("\u00ad", "") + "\n"

    def _without_running_lines(self, lines: list[str], page: int, label: str | None) -> list[str]:
        top = [shape(line, page, label) for line in lines[:EDGE_LINES]]
        bottom = [shape(line, page, label) for line in lines[: -EDGE_LINES - 1 : -1]]
        drop_top = self._repeated(top, 0)
        drop_bottom = self._repeated(bottom, 1)
        self._edges = [*self._edges[1 - PAGES_BACK :], (top, bottom)]
        if drop_top + drop_bottom >= len(lines):
            # A page that consists of such lines only, like a slide, is kept whole.
            return [] if top == ["#"] else lines
        return lines[drop_top : len(lines) - drop_bottom]

    def _repeated(self, shapes: list[str], edge: int) -> int:
        """How many lines from an edge inward are page numbers or have appeared there before."""
        for depth, this in enumerate(shapes):
            before = sum(page[edge][depth : depth + 1] == [this] for page in self._edges)
            if this != "#" and before < TIMES_BEFORE:
                return depth
        return len(shapes)

    def _joined(self, text: str) -> str:
        """Join the words that were broken at line ends."""
        if len(self._words) < VOCABULARY_WORDS:
            self._words.update(word.lower() for word in WORD.findall(text))
            self._compounds.update(word.lower() for word in COMPOUND.findall(text))
        parts: list[str] = []
        done = place = 0
        while match := BREAK.search(text, place):
            line = text[max(done, text.rfind("\n", 0, match.start()) + 1) : match.start()]
            word = "" if not line or line[-1].isspace() else line.split()[-1]
            head = HEAD.match(word[::-1])
            if head is None:
                place = match.start() + 1
                continue
            parts += [text[done : match.start() - len(word)], self._join(word, len(head[0]), match)]
            done = place = match.end()
        return "".join(parts) + text[done:]

    def _join(self, word: str, letters: int, match: re.Match[str]) -> str:
        """Join ``word``, which ends in so many letters, with what follows the broken line."""
        token, head, tail = word[:-letters], word[-letters:], match["tail"]
        # In paths, addresses, options and code, a trailing hyphen may mean anything.
        if token.startswith("-") or re.search(r"[/_@=.\\]", token):
            return word + match[0]
        whole, compound = (head + tail).lower(), f"{head}-{tail}".lower()
        keep = (
            "-" in token
            or len(head) == 1
            or not (head[-1].islower() and tail[0].islower())
            or (
                whole not in self._words
                and (compound in self._compounds or head.lower() in HYPHENATED)
            )
        )
        joined = f"{token}{head}{'-' if keep else ''}{tail}{match['rest']}"
        return joined + (match["end"] or ("\n" if match["gap"] else ""))


def shape(line: str, page: int, label: str | None) -> str:
    """A line in which the page number, if there is one at either end, is replaced by ``#``.

    A number equal to the printed label is the page number; any other is replaced by its distance
    from the physical page, which is the same on every page only for a page number.
    """
    line = " ".join(line.split())
    match = NUMERAL.search(line)
    if match is None:
        return line
    number = match["before"] or match["after"]
    rest = line[: match.start()] + line[match.end() :]
    if number == (label or str(page)):
        return f"{rest}#"
    return f"{rest}#{int(number) - page}" if number.isdigit() else line
