"""Notes on questions, taken part by part (Chain of Agents, Zhang et al. 2024, arXiv 2406.02818).

For each part of a document in turn, the model is given the part, the notes so far and the question,
and writes new notes. The last ones are what an answer is based on. As in summaries, a sentence is
kept only if a part that it may come from contains most of its words; that part is its source.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from lmi_cli.errors import ModelError
from lmi_cli.models.known import KnownModel
from lmi_cli.tasks.divided import PART_TOKENS, DividedDocument
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.writer import SENTENCE_TOKENS, Writer, loops_in, said_in
from lmi_cli.tasks.writing import LEAST_SUPPORT
from lmi_cli.text.prompts import Prompt
from lmi_cli.text.sentences import is_whole, words

NOTES = 2
"""Sentences of the notes, at most."""

INSTRUCTION = "Copy the sentences of the text above that help to answer this question: {question}"
"""See ``docs/prompts.md`` for the wordings that were tried."""

_WORDING = frozenset(words(INSTRUCTION.format(question="") + " the text says"))


@dataclass(frozen=True, slots=True)
class Noted:
    """A sentence of the notes, and the sentence of the document that it is nearest to.

    Attributes:
        text: What was written, in one line.
        part: Number of the part that it comes from.
        begin: Offset in the text of the document at which the sentence there begins.
        end: Offset behind it.
        support: Share of the words of ``text`` that the part contains, weighted by their rarity.
    """

    text: str
    part: int
    begin: int
    end: int
    support: float


class Notes:
    """Takes notes on the parts of a document.

    Args:
        writer: Writes them.
        divided: The document, in parts of at most :func:`note_part_tokens`.

    Attributes:
        seconds: Time for all notes so far.
    """

    def __init__(self, writer: Writer, divided: DividedDocument) -> None:
        self._writer, self._divided = writer, divided
        self.seconds = 0.0

    def take(
        self, questions: Sequence[str], first: int = 0
    ) -> Generator[Progress, None, list[list[Noted]]]:
        """The last notes on each question, every sentence with its source.

        Args:
            questions: They share the reading of each part, and are written about together.
            first: Number of the first question, for the random generators.

        Raises:
            ModelError: A logit is not finite.
        """
        started = time.monotonic()
        instructions = [INSTRUCTION.format(question=question) for question in questions]
        notes: list[list[Noted]] = [[] for _ in questions]
        parts = self._divided.parts
        for part in parts:
            before = [" ".join(each.text for each in some) for some in notes]
            written = self._writer.write_behind(
                self._divided.ids(part),
                [self._writer.ids(f"\n\n{text}" if text else "") for text in before],
                instructions,
                NOTES,
                # Each question has its own generator for each part.
                first + part.number * 2**16,
            )
            for number, text in enumerate(written):
                said = self._kept(text, questions[number])
                origins = {part.number, *(each.part for each in notes[number])}
                found = self._supported(said, sorted(origins))
                # Where the model writes nothing that is true, the notes so far still are.
                notes[number] = found or notes[number]
            yield Progress(part.number + 1, len(parts), "parts")
        self.seconds += time.monotonic() - started
        return notes

    def _kept(self, text: str, question: str) -> list[str]:
        """The sentences that say something: no repetition, and no echo of the question."""
        asked, kept = {*_WORDING, *words(question)}, list[str]()
        for sentence in said_in(text):
            new = sentence not in kept and not loops_in(sentence)
            if is_whole(sentence) and new and set(words(sentence)) - asked and len(kept) < NOTES:
                kept.append(sentence)
        return kept

    def _supported(self, said: Sequence[str], origins: Sequence[int]) -> list[Noted]:
        """The sentences that one of some parts supports."""
        found: list[Noted] = []
        for sentence in said:
            support, nearest = self._divided.picker.support(sentence, origins, _WORDING)
            if support >= LEAST_SUPPORT and nearest is not None:
                part = self._divided.part_of(nearest)
                found.append(Noted(sentence, part, nearest.begin, nearest.end, support))
        return found


def note_part_tokens(known: KnownModel, prompt: Prompt, questions: Sequence[str]) -> int:
    """Size of the parts of a document on which notes are taken, beside the longest question.

    Raises:
        ModelError: The model is too small for parts of a text.
    """
    length = known.facts.trained_length
    tails = (len(prompt.tail(INSTRUCTION.format(question=question))) for question in questions)
    room = length - len(prompt.prefix) - max(tails) - 2 * NOTES * SENTENCE_TOKENS
    if room < 2:
        raise ModelError(
            f"the trained length of {length:,} tokens leaves no room for parts of a text beside "
            "notes and question",
            hint="--answer-from passages needs less",
        )
    # A part may be almost twice as large as asked for.
    return min(PART_TOKENS, room // 2)
