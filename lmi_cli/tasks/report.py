"""What a task reports when it is done. Field names are those of the JSON output."""

from dataclasses import dataclass, field

from lmi_cli.sources.blocks import Skipped, Source
from lmi_cli.text.provenance import Place


@dataclass(slots=True)
class SourceReport:
    """A source, and how many tokens of the stream it gave."""

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
    """What of the document a model could see when it began to answer.

    Attributes:
        sinks: Starting tokens at capped distance, as document tokens.
        window: Document tokens in the window.
        unseen: Document tokens that were read, but are neither in sinks and window nor read again.
        unseen_from: Place of the first token between sinks and window.
        unseen_to: Place of the last token between them.
        searched: Tokens that were searched for what is relevant.
        attended: Most tokens of the middle that one query head attended to at a time.
        reread: Tokens that were read again, right in front of the question.
    """

    sinks: int
    window: int
    unseen: int
    unseen_from: Place | None = None
    unseen_to: Place | None = None
    searched: int = 0
    attended: int = 0
    reread: int = 0


@dataclass(slots=True)
class Evidence:
    """A place in the sources that an answer rests on.

    Attributes:
        source: Its origin.
        page: One-based page, for paged sources.
        label: The page's printed label, where it has one.
        line_start: One-based line, for sources counted in lines.
        line_end: Line of the last character.
        start: Offset of the passage in the extracted text of the source.
        end: Offset behind it.
        text: The passage.
        score: How much more the retrieval heads looked at it for this question than for questions
            that ask for nothing: mean over heads and tokens of the log ratio, in nats.
        tokens: Length of the passage.
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


@dataclass(slots=True)
class Timing:
    """Seconds on a monotonic clock, and rates."""

    prefill_s: float = 0.0
    prefill_tok_per_s: float | None = None
    decode_s: float = 0.0
    decode_tok_per_s: float | None = None
    first_token_s: float | None = None

    def add_prefill(self, total_tokens: int, seconds: float) -> None:
        """Count seconds of reading; ``total_tokens`` have been read so far, these included."""
        self.prefill_s += seconds
        self.prefill_tok_per_s = total_tokens / self.prefill_s if self.prefill_s else None

    def add_decode(self, total_tokens: int, seconds: float) -> None:
        """Count seconds of generation; ``total_tokens`` have been generated so far."""
        self.decode_s += seconds
        self.decode_tok_per_s = total_tokens / self.decode_s if self.decode_s else None


@dataclass(slots=True)
class Answer:
    """One question, answered.

    Attributes:
        answered_from: ``whole`` (all of the document was visible), ``passages`` (the best ones were
            read again), ``memory`` (the middle was searched) or ``window``.
        evidence: Best first.
    """

    question: str
    answer: str
    finish_reason: str
    tokens: int
    visible: Visible
    answered_from: str
    evidence: list[Evidence] = field(default_factory=list)


@dataclass(slots=True)
class ReadingReport:
    """What was read, how, and with what left out.

    Attributes:
        method: Name of the method.
        parameters: Its parameters, in tokens.
        bound_tokens: Largest number of tokens any layer keeps; None grows.
        form: ``fits`` or ``stream``.
        document_tokens: Tokens of the sources.
        cache_bytes: Keys and values at the end of the reading.
        stored_tokens: Tokens whose keys and values are all kept.
        indexed_tokens: Tokens whose keys of the retrieval heads are kept.
        store_bytes: What these take.
    """

    method: str
    parameters: dict[str, int]
    bound_tokens: int | None
    form: str
    document_tokens: int
    cache_bytes: int
    sources: list[SourceReport]
    skipped: list[Skipped]
    stored_tokens: int = 0
    indexed_tokens: int = 0
    store_bytes: int = 0


def source_reports(sources: list[Source], tokens: list[int]) -> list[SourceReport]:
    """Join what the sources know with the tokens counted for each."""
    counts = tokens + [0] * (len(sources) - len(tokens))
    return [
        SourceReport(
            source.origin,
            source.kind,
            source.size_bytes,
            source.chars,
            source.pages,
            source.lines,
            count,
            list(source.issues),
            list(source.remarks),
        )
        for source, count in zip(sources, counts, strict=True)
    ]
