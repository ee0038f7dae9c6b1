"""Let a model write the summary of a document, part by part (abstractive summaries).

Every part is read in a prompt of its own, exactly as the stock model reads it. In a tree, parts are
independent, and what was written about them is summarised again until one text is left. In a chain
(Zhang et al. 2024, "Chain of Agents", arXiv 2406.02818) each part is read behind the notes on all
parts before it.

A model may repeat itself, its instruction, or what no part says. Sentences that do are left out.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmi_cli.engine import CHUNK, SPECULATE
from lmi_cli.engine.engine import Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.models.known import KnownModel
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Skipped
from lmi_cli.tasks.divided import PART_TOKENS, DividedDocument
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.finished import FinishedParts
from lmi_cli.tasks.report import source_reports
from lmi_cli.tasks.summary import Entry, Length, Statement, SummaryReport
from lmi_cli.tasks.writer import Writer, room_for
from lmi_cli.text.parts import Part
from lmi_cli.text.prompts import Prompts
from lmi_cli.text.sentences import words

PART_INSTRUCTION = "What is the text above about? Answer in one sentence."
NOTES_INSTRUCTION = "Summarize the text above in {count} sentences."
"""The wordings that a small model followed most often; see ``docs/summaries.md``."""

_ASKED = frozenset(words(f"{PART_INSTRUCTION} {NOTES_INSTRUCTION} the text describes"))
"""Words that an answer takes from the instruction and not from the text."""

LEAST_SUPPORT = 0.5
"""Share of its words that the text must contain for a written sentence to be kept."""

BATCH = 8
"""Parts that are decoded together."""


@dataclass(frozen=True, slots=True)
class WritingOptions:
    """How a summary is written.

    ``chunk`` is the size of a forward pass, in tokens; ``speculate`` is one of
    :data:`lmi_cli.engine.SPECULATE`.
    """

    prompts: Prompts
    length: Length
    sampling: Sampling = field(default_factory=Sampling)
    chunk: int = CHUNK
    speculate: str = SPECULATE[0]


def write_summary(
    model: Loaded,
    divided: DividedDocument,
    skipped: Sequence[Skipped],
    strategy: str,
    options: WritingOptions,
    finished: FinishedParts | None = None,
) -> Generator[Entry | Progress | Note, None, SummaryReport]:
    """Write a summary of a document; its entries are yielded as the outline grows.

    Args:
        model: The model that writes.
        divided: The document, in parts as :func:`part_tokens` allows.
        skipped: What was not read of the input.
        strategy: ``tree`` or ``chain``.
        options: How it is written.
        finished: Keeps what has been written about each part, for a run that is interrupted.

    Raises:
        ModelError: The model is too small for parts of a text, or a logit is not finite.
    """
    writer = Writer(model, options.prompts, options.sampling, options.chunk, options.speculate)
    finished = finished or FinishedParts(None, "")
    finished.keep_only(len(divided.parts))
    if finished.parts:
        yield Note(f"{len(finished.parts):,} parts come from an interrupted run")
    task = _tree if strategy == "tree" else _chain
    outline: list[Entry] = []
    summary: list[str] = []
    for event in task(writer, divided, options, finished):
        if isinstance(event, list):
            summary = event
            continue
        if isinstance(event, Entry):
            outline.append(event)
        yield event
    statements = _supported(writer, divided, summary, range(len(divided.parts)))
    if not statements:
        yield Note("the model wrote nothing that the text supports, so sentences of it are shown")
        statements = divided.unwritten(options.length.sentences)
    document = divided.document
    return SummaryReport(
        strategy=strategy,
        statements=tuple(statements),
        outline=tuple(outline),
        parts=len(divided.parts),
        part_tokens=max(map(len, divided.parts)),
        tokens=document.tokens,
        sources=source_reports(list(divided.sources), document.source_tokens),
        skipped=list(skipped),
        read=writer.read,
        generated=writer.generated,
        dropped=writer.dropped,
        timing=writer.timing,
    )


def part_tokens(known: KnownModel, prompts: Prompts, length: Length) -> int:
    """Size of the parts of a document that a model is to write about.

    Raises:
        ModelError: The model is too small for parts of a text.
    """
    count = length.sentences
    room = room_for(known, prompts.whole(), NOTES_INSTRUCTION.format(count=count), count)
    # A part may be almost twice as large as asked for.
    return max(1, min(PART_TOKENS, room // 2))


def identity_of(
    model: Loaded, divided: DividedDocument, strategy: str, options: WritingOptions
) -> str:
    """What all that is written about a document depends on, as a SHA-256."""
    described = (
        model.files.identity,
        model.lm.dtype_name,
        model.lm.quantize,
        strategy,
        options.length,
        options.sampling,
        options.prompts.whole().prefix,
        PART_INSTRUCTION,
        NOTES_INSTRUCTION,
        [part.first for part in divided.parts],
    )
    digest = hashlib.sha256(repr(described).encode())
    digest.update(divided.document.ids.tobytes())
    return digest.hexdigest()


def _tree(
    writer: Writer, divided: DividedDocument, options: WritingOptions, finished: FinishedParts
) -> Iterator[Entry | Progress | list[str]]:
    """Entries of all parts, then the sentences of the summary."""
    written: list[str] = []
    for first in range(0, len(divided.parts), BATCH):
        batch = divided.parts[first : first + BATCH]
        if any(part.number not in finished.parts for part in batch):
            texts = [divided.ids(part) for part in batch]
            count = options.length.per_entry
            found = writer.write(texts, PART_INSTRUCTION, count, batch[0].number)
            for part, said in zip(batch, found, strict=True):
                finished.add(part.number, said)
        for part in batch:
            entry = _entry(writer, divided, part, finished.parts[part.number], options.length)
            written += [statement.text for statement in entry.statements]
            yield entry
        yield Progress(batch[-1].number + 1, len(divided.parts), "parts")
    count = options.length.sentences
    instruction = NOTES_INSTRUCTION.format(count=count)
    room = writer.room(instruction, count)
    number = len(divided.parts)
    while len(written) > count:
        groups, shorter = _groups(writer, written, room), list[str]()
        for group in groups:
            shorter += writer.write([group], instruction, count, number)[0]
            number += 1
        if not shorter or len(shorter) >= len(written):
            break
        written = shorter
        if len(groups) == 1:
            break
    # If it did not get short enough, sentences from all of it are left.
    count = min(count, len(written))
    yield [written[at * len(written) // count] for at in range(count)]


def _chain(
    writer: Writer, divided: DividedDocument, options: WritingOptions, finished: FinishedParts
) -> Iterator[Entry | Progress | list[str]]:
    """Entries of all parts, then the sentences of the summary."""
    count = options.length.sentences
    instruction = NOTES_INSTRUCTION.format(count=count)
    notes: list[str] = []
    for part in divided.parts:
        if part.number not in finished.parts:
            before = writer.ids(" ".join(notes) + "\n\n" if notes else "")
            text = np.concatenate((before, divided.ids(part)))
            (said,) = writer.write([text], instruction, count, part.number)
            finished.add(part.number, said)
        said = finished.parts[part.number]
        # Where the model writes nothing, the notes so far are still true.
        fresh, notes = [each for each in said if each not in notes], said or notes
        yield _entry(writer, divided, part, fresh, options.length)
        yield Progress(part.number + 1, len(divided.parts), "parts")
    yield notes


def _groups(writer: Writer, said: Sequence[str], room: int) -> list[Ids]:
    """Sentences in as few texts as have room for them."""
    groups: list[list[str]] = [[]]
    used = 0
    for sentence in said:
        size = len(writer.ids(sentence)) + 1
        if groups[-1] and used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(sentence)
        used += size
    return [writer.ids(" ".join(group))[:room] for group in groups]


def _entry(
    writer: Writer, divided: DividedDocument, part: Part, said: Sequence[str], length: Length
) -> Entry:
    """The entry of a part: what was written and is supported, else sentences of the part."""
    statements = _supported(writer, divided, said, [part.number])
    if not statements:
        picked = divided.picker.of_part(part.number, length.per_entry)
        statements = [divided.statement(part.number, sentence) for sentence in picked]
    if not statements and (line := divided.first_line(part)) is not None:
        statements = [line]
    return divided.entry([part], statements[: length.per_entry])


def _supported(
    writer: Writer, divided: DividedDocument, said: Sequence[str], numbers: Sequence[int]
) -> list[Statement]:
    """The written sentences that one of some parts supports, with the place they are nearest to."""
    found: list[Statement] = []
    for sentence in said:
        support, nearest = divided.picker.support(sentence, numbers, _ASKED)
        if support >= LEAST_SUPPORT and nearest is not None:
            place = nearest.begin, nearest.end
            found.append(divided.written(divided.part_of(nearest), sentence, *place, support))
        else:
            writer.dropped += 1
    return found
