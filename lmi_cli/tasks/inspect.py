"""What a reading would take in, without a model's weights."""

import time
from collections.abc import Generator
from dataclasses import dataclass

from lmi_cli.sources.blocks import Skipped
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.report import SourceReport, source_reports
from lmi_cli.text.provenance import SourceCounter
from lmi_cli.text.stream import TokenStream


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What would be read.

    Attributes:
        sources: The documents, with the tokens of each.
        skipped: What would not be read, and why.
        tokens: Of the stream, lines that name the sources included.
        chars: The same in characters.
        engine: Library that tokenised at the end.
        notes: What the user should know, one sentence each.
        seconds: Time for reading and tokenising.
    """

    sources: list[SourceReport]
    skipped: list[Skipped]
    tokens: int
    chars: int
    engine: str
    notes: list[str]
    seconds: float


def inspect(stream: TokenStream) -> Generator[Progress, None, InspectReport]:
    """Read and tokenise a text in constant memory.

    Raises:
        NoInputError: There is no text.
    """
    counter = SourceCounter()
    tokens = chars = 0
    started = time.monotonic()
    for block in stream.blocks(counter):
        counter.count(block.starts)
        tokens += len(block.ids)
        chars += len(block.text)
        yield Progress(tokens)
    return InspectReport(
        sources=source_reports(stream.corpus.sources, counter.tokens),
        skipped=list(stream.corpus.skipped),
        tokens=tokens,
        chars=chars,
        engine=stream.engine,
        notes=stream.notes,
        seconds=time.monotonic() - started,
    )
