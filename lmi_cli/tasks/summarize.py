"""Summarise a whole document with sentences of its own; no model is needed.

Every part of the document has an entry in the outline, and every sentence its place in the sources.
With a focus, the passages that a question is about decide which parts and sentences count.
"""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmi_cli.errors import NoInputError
from lmi_cli.sources.blocks import Skipped, Source
from lmi_cli.tasks.divided import DividedDocument, part_size
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import Note
from lmi_cli.tasks.finder import Ranked
from lmi_cli.tasks.listing import files_and_folders, introduction
from lmi_cli.tasks.picking import Sentence
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Timing, source_reports
from lmi_cli.tasks.summary import Entry, Length, Statement, SummaryReport
from lmi_cli.text.parts import Part

_SHARE = 4
"""A summary has at most one in so many of the sentences that it could be picked from."""
_FEWEST_SENTENCES = 3
_FOCUS_WEIGHT = 2.0
"""Weight of what a question is about, beside what the document is about."""
_FOCUS_OUTLINE = 3
"""With a focus, the outline has the parts of so many times the sentences of the summary."""
_FOCUS_PER_ENTRY = 2


def summarize(
    document: Document,
    sources: Sequence[Source],
    skipped: Sequence[Skipped],
    length: Length,
    *,
    reading: Reading | None = None,
    ranked: Sequence[Ranked] | None = None,
) -> Generator[Entry | Note, None, SummaryReport]:
    """Summarise a document; its entries are yielded as the outline grows.

    Args:
        document: The document.
        sources: Its sources.
        skipped: What was not read.
        length: The size of the summary.
        reading: The reading of it, with a focus.
        ranked: Its passages, ranked by a question that the summary is to focus on.

    Raises:
        NoInputError: There is no text.
    """
    if not document.tokens:
        raise NoInputError("there is no text to summarise")
    size = part_size(document.tokens, length.entries)
    divided = DividedDocument(document, sources, size, length.entries)
    numbers = range(len(divided.parts))
    outline: list[Entry] = []
    if ranked is not None:
        bonus = _relevance(divided, ranked)
        wanted = _at_most(divided, numbers, length.sentences)
        picked = divided.picker.of_document(wanted, numbers, bonus)
        shown = divided.picker.of_document(_FOCUS_OUTLINE * wanted, numbers, bonus)
        for number in sorted({divided.part_of(item) for item in shown}):
            inside = divided.picker.of_document(_FOCUS_PER_ENTRY, [number], bonus)
            statements = [divided.statement(number, item) for item in inside]
            outline.append(divided.entry([divided.parts[number]], statements))
            yield outline[-1]
    else:
        entries = files_and_folders if divided.listed else parts_in_order
        for entry in entries(divided, length):
            outline.append(entry)
            yield entry
        among = introduction(divided) if divided.listed else numbers
        picked = divided.picker.of_document(_at_most(divided, among, length.sentences), among)
    statements = [divided.statement(divided.part_of(item), item) for item in picked]
    if not statements:
        yield Note("the text has no sentences that stand alone, so its first lines are shown")
        statements = divided.unwritten(length.sentences)
    return SummaryReport(
        strategy="extract",
        statements=tuple(statements),
        outline=tuple(outline),
        parts=len(divided.parts),
        part_tokens=max(map(len, divided.parts)),
        tokens=document.tokens,
        sources=source_reports(list(sources), document.source_tokens),
        skipped=list(skipped),
        read=0 if reading is None else reading.fresh_tokens,
        timing=Timing() if reading is None else reading.timing(),
    )


def parts_in_order(divided: DividedDocument, length: Length) -> Generator[Entry, None, None]:
    """An entry for each part; parts that go on with a section share the entry of its first part."""
    seen: list[Sentence] = []
    group: list[Part] = []
    statements: list[Statement] = []
    for part in divided.parts:
        if group and not part.continues:
            yield divided.entry(group, statements)
            group, statements = [], []
        group.append(part)
        picked = divided.picker.of_part(part.number, length.per_entry, seen)
        seen += picked
        statements += [divided.statement(part.number, sentence) for sentence in picked]
        if not picked and (line := divided.first_line(part)) is not None:
            statements.append(line)
    yield divided.entry(group, statements)


def _at_most(divided: DividedDocument, among: Sequence[int], sentences: int) -> int:
    candidates = sum(len(divided.picker.sentences[number]) for number in among)
    return min(sentences, max(_FEWEST_SENTENCES, candidates // _SHARE))


def _relevance(divided: DividedDocument, ranked: Sequence[Ranked]) -> dict[Sentence, float]:
    """How much a question is about each sentence: the score of its passage, standardised."""
    document = divided.document
    scores: NDArray[np.float64] = np.zeros(len(document.borders) - 1)
    for item in ranked:
        scores[item.passage.number] = item.score
    scores = (scores - scores.mean()) / (scores.std() or 1.0)
    begins = document.starts[document.borders[:-1]]
    found = {}
    for sentence in (each for part in divided.picker.sentences for each in part):
        middle = (sentence.begin + sentence.end) // 2
        passage = int(np.searchsorted(begins, middle, side="right")) - 1
        found[sentence] = _FOCUS_WEIGHT * float(scores[passage])
    return found
