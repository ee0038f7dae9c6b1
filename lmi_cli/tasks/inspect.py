"""The documents as they would be read: sources, tokens, characters; no weights are needed."""

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
    """The documents as they would be read.

    Attributes:
        tokens: Length of the stream, including the lines that name the sources.
        chars: Its length in characters.
        engine: The library that tokenised it, at the end.
        notes: Notes for the user, one sentence each.
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
