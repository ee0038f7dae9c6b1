"""Reports of tasks. Field names are those of the JSON output."""

from dataclasses import asdict, dataclass, field

from lmi_cli.methods import Parameter
from lmi_cli.sources.blocks import Skipped, Source
from lmi_cli.text.provenance import Place


@dataclass(slots=True)
class SourceReport:
    """A source, with the number of tokens read from it."""

    origin: str
    kind: str
    bytes: int
    chars: int
    pages: int | None
    lines: int | None
    tokens: int
    issues: list[str]
    remarks: list[str]


@dataclass(slots=True)
class Visible:
    """The part of the document that the model could see when it began to answer.

    Attributes:
        sinks: Number of document tokens that are visible apart from the window.
        window: Number of document tokens in the window.
        partly: How many tokens of that window only some layers or heads see.
        unseen: Number of document tokens that were read but are not visible.
        unseen_from: Place of the first of them.
        unseen_to: Place of the last of them.
        searched: Number of tokens of which some are seen: that were searched for relevant ones, or
            of which the method keeps some.
        attended: Largest number of these that a query head attends to at a time.
        reread: Number of tokens in passages that were read again before the question.
        noted: Number of tokens on which the model took notes, which it saw instead of the text.
        carried: Number of document tokens that no attention layer sees, but which the state of
            recurrent layers has read.
    """

    sinks: int
    window: int
    unseen: int
    unseen_from: Place | None = None
    unseen_to: Place | None = None
    searched: int = 0
    attended: int = 0
    reread: int = 0
    partly: int = 0
    noted: int = 0
    carried: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of a source.

    Attributes:
        text: As it stands in the source.
        start: Offset in the extracted text of the source.
        page: One-based page, for paged sources.
        line: One-based line, for sources counted in lines.
        words: Offsets in ``text`` at which the words begin and end that are looked at most.
    """

    text: str
    start: int
    page: int | None
    line: int | None
    words: list[tuple[int, int]]


@dataclass(slots=True)
class Evidence:
    """A passage that a question is about, and its place in the sources.

    Attributes:
        source: Origin of the source.
        page: One-based page, for paged sources.
        label: The page's printed label, if it has one.
        line_start: One-based line, for sources counted in lines.
        line_end: Line of the last character.
        start: Offset of the passage in the extracted text of the source.
        end: Offset of its end (exclusive).
        score: Sum of standard scores; see :mod:`lmi_cli.tasks.finder`. Of a segment, in nats: see
            :mod:`lmi_cli.engine.foresight`. Of a sentence behind a note, the share of the words of
            the note that its part contains.
        quotes: The one or two sentences that the heads look at most, whole, in order.
        headings: What the first of them stands under: the last heading before it; in source code,
            the definitions around it, the outermost first.
    """

    source: str
    page: int | None
    label: str | None
    line_start: int | None
    line_end: int | None
    start: int
    end: int
    text: str
    score: float
    tokens: int
    quotes: list[Quote] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Timing:
    """Seconds, and tokens per second.

    Attributes:
        decode_tok_per_pass: Tokens that one pass of the model gave to an answer on average; None
            where nothing was drafted (``--speculate none``).
        parts_s: Time of going through the parts of a document before answers.
    """

    prefill_s: float = 0.0
    prefill_tok_per_s: float | None = None
    decode_s: float = 0.0
    decode_tok_per_s: float | None = None
    decode_tok_per_pass: float | None = None
    first_token_s: float | None = None
    parts_s: float = 0.0

    def add_prefill(self, total_tokens: int, seconds: float) -> None:
        """Add seconds of prefill, after which ``total_tokens`` have been read in all."""
        self.prefill_s += seconds
        self.prefill_tok_per_s = total_tokens / self.prefill_s if self.prefill_s else None

    def add_decode(self, total_tokens: int, seconds: float, total_passes: int = 0) -> None:
        """Add seconds of decode, after which ``total_tokens`` have been generated in all.

        ``total_passes`` are those of all answers, if drafts have been made.
        """
        self.decode_s += seconds
        self.decode_tok_per_pass = total_tokens / total_passes if total_passes else None
        self.decode_tok_per_s = total_tokens / self.decode_s if self.decode_s else None


@dataclass(slots=True)
class Answer:
    """An answer to one question, with evidence sorted best first.

    Attributes:
        answered_from: ``whole`` (the whole document was visible), ``passages`` (the best were read
            again), ``memory`` (the store was searched), ``window``, ``xl3m`` (the best segments
            were read again) or ``chain`` (from notes on each part).
        passages: Number of passages or segments that were read again.
        notes: Sentences of the notes that were read before the question.
        prompt: What stood before the model when it began to answer, if that was asked for.
    """

    question: str
    answer: str
    finish_reason: str
    tokens: int
    visible: Visible
    answered_from: str
    evidence: list[Evidence] = field(default_factory=list)
    passages: int = 0
    notes: list[str] = field(default_factory=list)
    prompt: str | None = None


@dataclass(slots=True)
class ReadingReport:
    """A document that was read, and how.

    Attributes:
        parameters: Parameters of the method by name; lengths are in tokens.
        bound_tokens: Largest number of tokens that any layer keeps; None if it grows with the text.
        form: ``fits``, ``truncated``, ``parts`` or ``stream``.
        document_tokens: Tokens of the document.
        cache_bytes: Size of the keys and values at the end of the reading, and of the state that
            recurrent layers carry.
        stored_tokens: Number of tokens in the store.
        indexed_tokens: Number of tokens in the index.
        store_bytes: Size of index and store.
        unread_tokens: Number of tokens of the document that were not read, since it does not fit.
        words: Whether passages are ranked by words alone, as the model has no attention layers.
    """

    method: str
    parameters: dict[str, Parameter]
    bound_tokens: int | None
    form: str
    document_tokens: int
    cache_bytes: int
    sources: list[SourceReport]
    skipped: list[Skipped]
    stored_tokens: int = 0
    indexed_tokens: int = 0
    store_bytes: int = 0
    unread_tokens: int = 0
    words: bool = False


def source_reports(sources: list[Source], tokens: list[int]) -> list[SourceReport]:
    """Reports on sources, with the number of tokens in each."""
    counts = tokens + [0] * (len(sources) - len(tokens))
    reports = []
    for source, count in zip(sources, counts, strict=True):
        known = asdict(source)
        del known["outline"]
        reports.append(SourceReport(bytes=known.pop("size_bytes"), tokens=count, **known))
    return reports
