"""The text of an HTML page, as a person sees it. Imports only the standard library.

The scanner is our own, and linear: ``html.parser`` scans an unfinished tag again with every piece,
which a hostile page can make arbitrarily slow.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape

from lmi_cli.sources.blocks import Piece, Source
from lmi_cli.sources.encoding import decoded
from lmi_cli.sources.input import Input
from lmi_cli.sources.text import blocks

TAG_CHARS = 65536
OPEN = re.compile(r"<(?:!--|[!?]|/?([a-zA-Z][a-zA-Z0-9:-]*))")
CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
# Elements whose content is not text, and elements around the main text of a page.
RAW = ("script", "style", "template", "textarea", "iframe", "noscript", "svg")
ASIDE = frozenset({"nav", "aside", "footer", "button", "select", "dialog"})
RAW_END = {name: re.compile(f"</{name}", re.I) for name in RAW}
COMMENT_END = re.compile("-->")
LONG_NUMBER = re.compile(r"&#[0-9]{9,}+;?")
MARK_CHARS = 16
QUOTES = re.compile("[<>\"']")
MAIN = frozenset({"main", "article"})
PARAGRAPH = frozenset(
    re.findall(
        r"\w+",
        """address article blockquote body dd div dl dt fieldset figcaption figure footer form
        h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table tbody thead title tr ul""",
    )
)
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}


def read(data: Input, source: Source) -> Iterator[Piece]:
    """Read a page: text without markup, scripts, navigation and footers."""
    found = CHARSET.search(data.head)
    declared = found[1].decode("ascii", "replace") if found else None
    for text in blocks(main_text(decoded(data.chunks(), source, declared))):
        yield Piece(text)


def main_text(texts: Iterable[str]) -> Iterator[str]:
    """Turn HTML into plain text: headings as ``#``, list items as ``-``, tabs between cells.

    Args:
        texts: The page in pieces, cut anywhere.
    """
    layout = _Layout()
    for kind, value in _tokens(texts):
        if kind == "text":
            layout.text(value)
        elif kind == "start":
            layout.start(value)
        else:
            layout.end(value)
        if text := layout.take():
            yield text
    if text := layout.take(final=True):
        yield text


def _tokens(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Text runs and tag names; comments, declarations and raw content are skipped."""
    skip_to: re.Pattern[str] | None = None
    endless = 0  # tags found to have no end; each halves how far the next end is looked for
    kept = ""
    pieces = iter(texts)
    final = False
    while True:
        if not final:
            try:
                kept += next(pieces)
            except StopIteration:
                final = True
        position = 0
        while position < len(kept):
            if skip_to is not None:
                found = skip_to.search(kept, position)
                if found is None:
                    # The end mark may be cut in two.
                    position = max(position, len(kept) - MARK_CHARS)
                    break
                position = found.end() if skip_to is COMMENT_END else found.start()
                skip_to = None
                continue
            start = kept.find("<", position)
            if start < 0:
                # A character reference may be cut in two.
                cut = kept.rfind("&", max(position, len(kept) - 32))
                stop = len(kept) if final or cut < 0 else cut
                if stop > position:
                    yield "text", _unescaped(kept[position:stop])
                position = stop
                break
            if start > position:
                yield "text", _unescaped(kept[position:start])
                position = start
            match = OPEN.match(kept, position)
            if match is None:
                if not final and len(kept) - position < 64:
                    break
                yield "text", "<"
                position += 1
                continue
            if match[0] == "<!--":
                skip_to, position = COMMENT_END, match.end()
                continue
            limit = TAG_CHARS >> min(endless, 8)
            end = _tag_end(kept, match.end(), limit)
            if end is None and not final and len(kept) - position < limit:
                break
            if end is None or end < 0:
                endless += end is None
                yield "text", "<"
                position += 1
                continue
            if name := (match[1] or "").lower():
                closing = kept[position + 1] == "/"
                yield "end" if closing else "start", name
                if not closing and name in RAW and kept[end - 1] != "/":
                    skip_to = RAW_END[name]
            position = end + 1
        kept = kept[position:]
        if final:
            return


def _unescaped(text: str) -> str:
    """The text with characters in place of references to them."""
    try:
        return unescape(text)
    except ValueError:  # Python converts no integer of thousands of digits
        return unescape(LONG_NUMBER.sub("\ufffd", text))


def _tag_end(text: str, position: int, limit: int) -> int | None:
    """Offset of the ``>`` that ends a tag within ``limit`` characters.

    Returns:
        None if there is none so far, -1 if this is not a tag.
    """
    quote = ""
    for match in QUOTES.finditer(text, position, position + limit):
        char = match[0]
        if quote:
            quote = "" if char == quote else quote
        elif char == ">":
            return match.start()
        elif char == "<":
            return -1
        elif text[match.start() - 1] in "= \t\n\r":
            quote = char
    return None


class _Layout:
    """Collects text with the white space that the tags imply."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._breaks = 0
        self._space = False
        self._started = False
        self._pre = 0
        self._aside: list[str] = []
        self._prefix = ""

    def start(self, name: str) -> None:
        """Handle a start tag."""
        if name in MAIN:
            self._aside.clear()  # an unclosed <nav> must not swallow the page
        if name in ASIDE:
            self._aside.append(name)
        if name == "br":
            self._breaks = max(self._breaks, 1)
        elif name in ("td", "th"):
            self._prefix = "\t"
        elif name in PARAGRAPH:
            self._block(name)
            self._prefix = HEADINGS.get(name, "- " if name == "li" else "")
        self._pre += name == "pre"

    def end(self, name: str) -> None:
        """Handle an end tag."""
        if name in self._aside:
            while self._aside.pop() != name:
                pass
        if name in PARAGRAPH:
            self._block(name)
            self._prefix = ""
        self._pre -= name == "pre" and self._pre > 0

    def _block(self, name: str) -> None:
        gap = 1 if name in ("li", "tr", "dt", "dd", "div", "ul", "ol", "tbody", "thead") else 2
        self._breaks = max(self._breaks, gap)

    def text(self, value: str) -> None:
        """Add a run of text."""
        if self._aside or not value:
            return
        if not self._pre:
            words = " ".join(value.split())
            if not words:
                self._space = self._space or bool(value)
                return
            lead = value[0].isspace()
            trail = value[-1].isspace()
        else:
            words, lead, trail = value, False, False
        if self._breaks:
            self._out.append("\n" * self._breaks if self._started else "")
            lead = False
        elif self._prefix == "\t":
            lead = False
        elif lead or self._space:
            self._out.append(" " if self._started else "")
        if self._prefix != "\t" or not self._breaks:
            self._out.append(self._prefix)
        self._out.append(words)
        self._breaks, self._prefix, self._space, self._started = 0, "", trail, True

    def take(self, *, final: bool = False) -> str:
        """Return the text collected so far, once there is enough of it."""
        if not final and len(self._out) < 256:
            return ""
        text = "".join(self._out)
        self._out.clear()
        return text + ("\n" if final and self._started else "")
