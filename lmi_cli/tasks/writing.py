"""Let a model write the summary of a document, part by part (abstractive summaries).

Every part is read in a prompt of its own, exactly as the stock model reads it. In a tree, parts are
independent, and what was written about them is summarised again until one text is left. In a chain
(Zhang et al. 2024, "Chain of Agents", arXiv 2406.02818) each part is read behind the notes on all
parts before it.

A model may repeat itself, its instruction, or what no part says. Sentences that do are left out.
"""

import hashlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmi_cli.engine import CHUNK, SPECULATE
from lmi_cli.engine.batch import decode_batch
from lmi_cli.engine.drafts import Drafts
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.known import KnownModel
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Skipped
from lmi_cli.tasks.divided import PART_TOKENS, DividedDocument
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.finished import FinishedParts
from lmi_cli.tasks.report import Timing, source_reports
from lmi_cli.tasks.summary import Entry, Length, Statement, SummaryReport
from lmi_cli.text.parts import Part
from lmi_cli.text.prompts import Prompt, Prompts
from lmi_cli.text.sentences import is_whole, sentences, words

PART_INSTRUCTION = "What is the text above about? Answer in one sentence."
NOTES_INSTRUCTION = "Summarize the text above in {count} sentences."
"""The wordings that a small model followed most often; see ``docs/summaries.md``."""

_ASKED = frozenset(words(f"{PART_INSTRUCTION} {NOTES_INSTRUCTION} the text describes"))
"""Words that an answer takes from the instruction and not from the text."""

LEAST_SUPPORT = 0.5
"""Share of its words that the text must contain for a written sentence to be kept."""

BATCH = 8
"""Parts that are decoded together."""

_SENTENCE_TOKENS = 64
_LOOP_WORDS = 6
"""Where so many words come again in the same order, a loop has begun."""
_PART_SHARE = 2
"""Notes and text together take at most one in so many parts of the trained length."""


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


class Writer:
    """Writes sentences about texts that fit the trained length.

    Attributes:
        read: Tokens read so far.
        generated: Tokens written so far.
        dropped: Sentences left out so far.
        timing: Time of reading and of writing.
    """

    def __init__(self, model: Loaded, options: WritingOptions) -> None:
        self._model, self._options = model, options
        self._tokenizer = model.tokenizer
        self._prompt = options.prompts.whole()
        length = model.known.facts.trained_length
        method = MethodChoice().build(length, len(self._tokenizer.prefix))
        self._engine = Engine(model.lm, method, options.chunk, longest=length)
        self.read = self.generated = self.dropped = 0
        self.timing = Timing()
        # What a text says stands in its own prompt, so nothing else has to be searched.
        self._drafts = Drafts(model.lm, options.speculate, np.empty(0, dtype=np.int32))

    def room(self, instruction: str, count: int) -> int:
        """Tokens of the longest text that can be summarised in ``count`` sentences.

        Raises:
            ModelError: There is no room for any text.
        """
        return _room(self._model.known, self._prompt, instruction, count)

    def ids(self, text: str) -> Ids:
        """The tokens of a text that has been written."""
        return self._tokenizer.encode(text).ids

    def write(
        self, texts: Sequence[Ids], instruction: str, count: int, number: int
    ) -> list[list[str]]:
        """At most ``count`` sentences about each text; those written twice are left out.

        ``number`` is that of the first text, for the random generators.
        """
        started = time.monotonic()
        states, last, prompts = [], [], []
        tail = self._prompt.tail(instruction)
        for text in texts:
            states.append(self._engine.start())
            prompt = np.array([*self._prompt.prefix, *text.tolist(), *tail], dtype=np.int32)
            for event in self._engine.read(states[-1], [prompt]):
                newest = event.last
            last.append(newest)
            self.read += len(prompt)
            prompts.append(prompt)
        reading = time.monotonic()
        tokens: list[list[int]] = [[] for _ in texts]
        drafters = self._drafts.of(prompts)
        for stream, generated in decode_batch(
            self._engine,
            states,
            last,
            stop_ids=self._tokenizer.stop_ids,
            limit=count * _SENTENCE_TOKENS,
            sampling=self._options.sampling,
            first=number,
            drafters=drafters,
            enough=lambda stream, tokens: self._is_enough(tokens, count),
        ):
            if generated.token not in self._tokenizer.stop_ids:
                tokens[stream].append(generated.token)
        self.generated += sum(map(len, tokens))
        self.timing.add_prefill(self.read, reading - started)
        self._drafts.keep(drafters)
        seconds = time.monotonic() - reading
        self.timing.add_decode(self.generated, seconds, self._drafts.passes)
        return [
            self._sentences(self._tokenizer.decode(each), instruction, count) for each in tokens
        ]

    def _is_enough(self, tokens: Sequence[int], count: int) -> bool:
        """Whether there are enough sentences, or a loop begins."""
        said = list(_said(self._tokenizer.decode(tokens)))
        # A full stop ends a sentence only if the next one has begun: "read." may be "read.table".
        return len(said) > count or len(set(said)) < len(said) or any(map(_loops, said))

    def _sentences(self, text: str, instruction: str, count: int) -> list[str]:
        kept: list[str] = []
        asked = set(words(instruction))
        for sentence in _said(text):
            found = set(words(sentence))
            echo = len(found & asked) > 0.5 * len(found)
            fresh = sentence not in kept and not _loops(sentence)
            if is_whole(sentence) and not echo and fresh and len(kept) < count:
                kept.append(sentence)
            else:
                self.dropped += 1
        return kept


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
    writer = Writer(model, options)
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
    room = _room(known, prompts.whole(), NOTES_INSTRUCTION.format(count=count), count)
    # A part may be almost twice as large as asked for.
    return max(1, min(PART_TOKENS, room // 2))


def _room(known: KnownModel, prompt: Prompt, instruction: str, count: int) -> int:
    length = known.facts.trained_length
    around = len(prompt.prefix) + len(prompt.tail(instruction))
    room = length // _PART_SHARE - around - count * _SENTENCE_TOKENS
    if room < 1:
        raise ModelError(
            f"the trained length of {length:,} tokens leaves no room for parts of a text",
            hint="--strategy extract summarises without a model",
        )
    return room


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


def _said(text: str) -> Iterator[str]:
    for begin, end in sentences(text):
        yield " ".join(text[begin:end].split())


def _loops(text: str) -> bool:
    """Whether some words come again in the same order."""
    said = text.lower().split()
    runs = [tuple(said[at : at + _LOOP_WORDS]) for at in range(len(said) - _LOOP_WORDS + 1)]
    return len(set(runs)) < len(runs)
