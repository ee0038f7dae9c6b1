"""What a summary of a document consists of, and how large it is to be."""

from dataclasses import dataclass, field

from lmi_cli.errors import UsageError
from lmi_cli.sources.blocks import Skipped
from lmi_cli.tasks.report import SourceReport, Timing
from lmi_cli.text.provenance import Place

STRATEGIES = ("auto", "extract", "tree", "chain", "window")
"""Ways to make a summary; ``docs/summaries.md`` compares them."""

WRITING_WEIGHTS = 1_000_000_000
"""Number of weights from which on a model writes summaries by default.

Smaller models were measured: they write worse sentences than the text has. For larger ones this is
an assumption.
"""


@dataclass(frozen=True, slots=True)
class Length:
    """The size of a summary.

    Attributes:
        sentences: Of the overall summary, at most.
        entries: Of the outline, at most, beside one for each source; longer documents are cut into
            larger parts. None means that parts have their usual size whatever their number.
        per_entry: Sentences of each entry of the outline.
    """

    sentences: int
    entries: int | None
    per_entry: int


LENGTHS = {"short": Length(3, 24, 1), "medium": Length(6, 64, 1), "long": Length(12, None, 2)}


def length_of(name: str) -> Length:
    """The size by its name.

    Raises:
        UsageError: There is no such name.
    """
    if name not in LENGTHS:
        raise UsageError(
            f"unknown value {name!r} for --length", hint="one of " + ", ".join(LENGTHS)
        )
    return LENGTHS[name]


def strategy_of(name: str, weights: int) -> str:
    """The strategy to use with a model of so many weights.

    Raises:
        UsageError: There is no such strategy.
    """
    if name not in STRATEGIES:
        raise UsageError(
            f"unknown value {name!r} for --strategy", hint="one of " + ", ".join(STRATEGIES)
        )
    if name != "auto":
        return name
    return "extract" if weights < WRITING_WEIGHTS else "tree"


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of a summary, and the place in the sources that it comes from.

    Attributes:
        text: The sentence in one line.
        part: Number of its part.
        source: Origin of its source.
        first: Place of the first character of the sentence, or of the one that a written sentence
            is nearest to.
        last: Place of its last character.
        support: Of a written sentence: the share of its words that its part contains, weighted by
            how rare they are; None for a sentence of the text.
    """

    text: str
    part: int
    source: str
    first: Place
    last: Place
    support: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the outline: a part of the document, or a file or folder of many.

    Attributes:
        kind: ``part``, ``file`` or ``folder``.
        titles: Of the sections that begin in the part; the path of a file or folder.
        parts: Numbers of the parts it stands for.
        tokens: Their length.
        source: Origin of its (first) source.
        first: Place of its first character.
        last: Place of its last.
        statements: What it is about, in order; may be empty.
    """

    kind: str
    titles: tuple[str, ...]
    parts: tuple[int, ...]
    tokens: int
    source: str
    first: Place
    last: Place
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class SummaryReport:
    """A summary of a document.

    Attributes:
        strategy: How it was made.
        statements: The summary of the whole.
        outline: The document part by part, in order.
        parts: Number of parts.
        part_tokens: Size of the largest one.
        tokens: Length of the document.
        read: Tokens that the model has read.
        generated: Tokens that it has written.
        sources: What was summarised.
        skipped: What was not, with reasons.
        dropped: Written sentences that were left out for want of support, or as repetitions.
    """

    strategy: str
    statements: tuple[Statement, ...]
    outline: tuple[Entry, ...]
    parts: int
    part_tokens: int
    tokens: int
    sources: list[SourceReport]
    skipped: list[Skipped]
    read: int = 0
    generated: int = 0
    dropped: int = 0
    timing: Timing = field(default_factory=Timing)
