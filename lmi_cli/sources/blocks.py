"""The types that cross from ``sources`` to ``text``: blocks of text that know where they came from.

Also the pieces from which ``corpus`` makes blocks. Imports only the standard library.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

BLOCK_CHARS = 32768


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive text that a reader yields from its one source; attributes as in `Block`."""

    text: str
    page: int | None = None
    label: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A run of text with one provenance.

    Attributes:
        source: Index into :attr:`Corpus.sources`.
        text: The text; all blocks, concatenated in order, are the whole stream.
        char_start: Offset, in characters, of ``text[0]`` in the extracted text of its source.
        page: One-based physical page, for paged sources.
        label: The page label printed on that page, where the source has one.
        line: One-based line on which ``text[0]`` lies, for sources that are counted in lines.
        header: True for a line that marks the start of a source for the model. It is part of the
            stream but not of any source's text.
    """

    source: int
    text: str
    char_start: int
    page: int | None = None
    label: str | None = None
    line: int | None = None
    header: bool = False


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A title in the outline of a paged source, and the one-based page that it leads to."""

    title: str
    page: int


@dataclass(slots=True)
class Source:
    """One document that was read; counts are final once the stream has passed it.

    Attributes:
        origin: The path as the user gave it or as the walk found it, or ``<stdin>``.
        kind: ``text``, ``pdf``, ``html``, ...
        size_bytes: Bytes read from the file or pipe.
        chars: Characters of extracted text so far, headers not included.
        pages: Physical pages, for paged sources.
        lines: Lines so far, for sources that are counted in lines.
        issues: What was lost or may have been lost, one sentence each.
        remarks: What a reader may want to know although nothing was lost.
        outline: The document's own outline, in order, for paged sources that have one.
    """

    origin: str
    kind: str
    size_bytes: int = 0
    chars: int = 0
    pages: int | None = None
    lines: int | None = None
    issues: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    outline: list[Bookmark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An input that was not read, and why."""

    origin: str
    reason: str


@dataclass(slots=True)
class Corpus:
    """A stream of blocks, and a record of where they came from.

    ``blocks`` can be iterated once, in order; ``sources`` and ``skipped`` grow meanwhile.
    """

    blocks: Iterable[Block]
    sources: list[Source] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    measure: Callable[[], float | None] = lambda: None

    @property
    def share(self) -> float | None:
        """The part of the input that the blocks so far come from, by bytes and pages.

        None if the size of the input is not known. The files are measured when this is first asked.
        """
        return self.measure()


def text_corpus(text: str, origin: str = "<text>") -> Corpus:
    """A corpus of one text that is already in memory."""
    size = len(text.encode("utf-8", "surrogatepass"))
    source = Source(origin, "text", size, len(text), lines=text.count("\n") + 1)
    return Corpus([Block(0, text, 0, line=1)], [source])
