"""A document divided into the parts that a summary treats one by one."""

from bisect import bisect_right
from collections.abc import Generator, Sequence
from pathlib import PurePath
from statistics import median

from lmi_cli.engine.engine import Ids
from lmi_cli.sources.blocks import Source
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.headings import headings_of
from lmi_cli.tasks.picking import Picker, Sentence
from lmi_cli.tasks.summary import Entry, Statement
from lmi_cli.text.comments import SOURCE_SUFFIXES
from lmi_cli.text.parts import Part, parts_of
from lmi_cli.text.stream import TokenStream

_LINE_CHARS = 200
_GROWTH = 4
"""Where there are too many parts, they grow by one in so many tokens."""
PART_TOKENS = 1024
"""Usual size of a part; see ``docs/summaries.md``."""


def read_document(stream: TokenStream) -> Generator[Progress, None, Document]:
    """The whole document of a stream, which no model reads.

    Raises:
        NoInputError: There is no text.
    """
    document = Document()
    for block in stream.blocks(document.provenance):
        document.add(block)
        yield Progress(document.tokens)
    return document


def part_size(tokens: int, most_parts: int | None = None) -> int:
    """Size, in tokens, of the parts of a document of ``tokens`` tokens; see `DividedDocument`."""
    return PART_TOKENS if most_parts is None else max(PART_TOKENS, -(-tokens // most_parts))


class DividedDocument:
    """A document, its parts, and the sentences in them.

    Args:
        document: The document.
        sources: Its sources.
        part_tokens: Target size of a part, in tokens.
        most_parts: Larger parts are made where there would be more, beside one for each source.

    Attributes:
        parts: The parts, in order.
        picker: Picks sentences of them.
        listed: Whether an outline should list files rather than parts: there are several, most of
            them code or short.
    """

    def __init__(
        self,
        document: Document,
        sources: Sequence[Source],
        part_tokens: int = PART_TOKENS,
        most_parts: int | None = None,
    ) -> None:
        self.document = document
        self.sources = sources
        self._begins = document.provenance.source_starts()
        starts = [begin for _, begin in self._begins]
        titled = headings_of(document, sources)
        while True:
            self.parts = parts_of(document.text, document.starts, starts, titled, part_tokens)
            most = document.tokens if most_parts is None else most_parts + len(starts) - 1
            if len(self.parts) <= most or part_tokens > document.tokens:
                break
            part_tokens += max(1, part_tokens // _GROWTH)
        self._spans = [self.span(part) for part in self.parts]
        suffixes = [PurePath(source.origin).suffix.lower() for source in sources]
        code = [suffix in SOURCE_SUFFIXES for suffix in suffixes]
        self.picker = Picker(
            document.text,
            self._spans,
            [len(part) for part in self.parts],
            {
                part.number: suffixes[self.source(part)]
                for part in self.parts
                if code[self.source(part)]
            },
            document.provenance.sections().tolist(),
        )
        counts = document.source_tokens
        short = bool(counts) and median(counts) <= PART_TOKENS
        self.listed = len(self._begins) > 1 and (short or 2 * sum(code) > len(code))

    def span(self, part: Part) -> tuple[int, int]:
        """Offsets in the text of a part, without the line that names its source."""
        document = self.document
        begin, end = int(document.starts[part.first]), len(document.text)
        if part.stop < document.tokens:
            end = int(document.starts[part.stop])
        end = max(end, begin + 1)
        inside = document.provenance.behind_header(begin, end)
        return (inside, end) if inside < end else (begin, end)

    def source(self, part: Part) -> int:
        """Index of the source of a part."""
        return self.document.provenance.locate(self.span(part)[0]).source

    def statement(self, part: int, sentence: Sentence) -> Statement:
        """A sentence of the text as a statement about its part."""
        return self.written(part, sentence.said, sentence.begin, sentence.end)

    def written(
        self, part: int, text: str, begin: int, end: int, support: float | None = None
    ) -> Statement:
        """A statement about a part, with a place in the text."""
        locate = self.document.provenance.locate
        first = locate(begin)
        origin = self.sources[first.source].origin
        return Statement(text, part, origin, first, locate(max(begin, end - 1)), support)

    def part_of(self, sentence: Sentence) -> int:
        """Number of the part that a sentence is in."""
        return bisect_right(self._spans, sentence.begin, key=lambda span: span[0]) - 1

    def ids(self, part: Part) -> Ids:
        """The tokens of a part."""
        return self.document.ids[part.first : part.stop]

    def unwritten(self, count: int) -> list[Statement]:
        """A summary of sentences of the text, or of its first lines where it has none."""
        picked = self.picker.of_document(count, range(len(self.parts)))
        if picked:
            return [self.statement(self.part_of(sentence), sentence) for sentence in picked]
        lines = map(self.first_line, self.parts)
        return [line for line in lines if line is not None][:count]

    def first_line(self, part: Part) -> Statement | None:
        """The first line with a letter in a part, for what has no sentences."""
        text, (begin, end) = self.document.text, self.span(part)
        while begin < end:
            stop = text.find("\n", begin, end)
            stop = end if stop < 0 else stop
            if any(map(str.isalnum, line := text[begin:stop])):
                said = " ".join(line.split())
                said = said if len(said) <= _LINE_CHARS else f"{said[: _LINE_CHARS - 3]}..."
                return self.written(part.number, said, begin, stop)
            begin = stop + 1
        return None

    def entry(self, parts: Sequence[Part], statements: Sequence[Statement]) -> Entry:
        """An entry of the outline for consecutive parts of one source."""
        begin, (_, end) = self.span(parts[0])[0], self.span(parts[-1])
        end = begin + max(1, len(self.document.text[begin:end].rstrip()))
        locate = self.document.provenance.locate
        first = locate(begin)
        return Entry(
            kind="part",
            titles=parts[0].titles,
            parts=tuple(part.number for part in parts),
            tokens=sum(map(len, parts)),
            source=self.sources[first.source].origin,
            first=first,
            last=locate(end - 1),
            statements=tuple(statements),
        )
