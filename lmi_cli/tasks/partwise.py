"""What answers are based on if a document is read part by part with each question.

A reading of the whole as a stream is not needed for that: the text is enough.
"""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmi_cli.errors import UsageError
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.divided import DividedDocument
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.evidence import evidence_at, evidence_of
from lmi_cli.tasks.finder import Ranked
from lmi_cli.tasks.headings import Sections
from lmi_cli.tasks.noting import Noted, Notes, note_part_tokens
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Evidence
from lmi_cli.tasks.rereading import Basis, arranged, fitting, text_of
from lmi_cli.tasks.segments import Segments
from lmi_cli.tasks.writer import Writer

if TYPE_CHECKING:
    from lmi_cli.tasks.asking import AnswerOptions


class Partwise:
    """Finds what answers are based on by going through the parts of a document.

    Args:
        model: The model.
        reading: The document.
        sections: What its places stand under.
        options: How questions are asked and answered.

    Attributes:
        seconds: Time for all of it so far.
    """

    def __init__(
        self,
        model: Loaded,
        reading: Reading,
        sections: Sections,
        options: "AnswerOptions",
    ) -> None:
        self._model, self._reading = model, reading
        self._sections, self._options = sections, options
        self.seconds = 0.0

    def bases(
        self, source: str, questions: Sequence[str], rooms: Sequence[int], first: int = 0
    ) -> Generator[Progress, None, list[Basis]]:
        """What the answer to each question is based on.

        Args:
            source: One of ``plan.PARTWISE``.
            questions: The questions; each part is read once for all of them.
            rooms: Tokens for which each prompt has room beside its question and answer.
            first: Number of the first question, for the random generators.

        Raises:
            ModelError: A logit is not finite, or the model is too small for notes.
            UsageError: There is no room for any segment beside a question.
        """
        if source == "chain":
            return (yield from self._from_notes(questions, first))
        return (yield from self._from_segments(questions, rooms))

    def _from_segments(
        self, questions: Sequence[str], rooms: Sequence[int]
    ) -> Generator[Progress, None, list[Basis]]:
        document, tokenizer = self._reading.document, self._model.tokenizer
        prompt, chunk = self._options.prompts.around_passages(), self._reading.plan.chunk
        segments = Segments(self._model, document, prompt, chunk, self._options.measure)
        largest = max(segments.passages, key=len)
        if not fitting([Ranked(largest, 0.0)], tokenizer, min(rooms)):
            raise UsageError(
                f"a question leaves room for {max(0, min(rooms)):,} tokens of the text, but a "
                f"segment of it has up to {len(largest):,}",
                hint="shorten the question or lower -n",
            )
        ranked = yield from segments.rank(questions)
        self.seconds += segments.seconds
        found = []
        for each, room in zip(ranked, rooms, strict=True):
            best = fitting(each, tokenizer, room, self._options.passages)
            passages = arranged([item.passage for item in best], "document")
            text = text_of(document, tokenizer, passages)
            found.append(Basis(text, self._evidence_of_segments(best), passages))
        return found

    def _evidence_of_segments(self, best: Sequence[Ranked]) -> list[Evidence]:
        document, sources = self._reading.document, self._reading.sources
        count, sections = len(best), self._sections
        return evidence_of(document, sources, best, None, count, 0, sections, distinct=False)

    def _from_notes(
        self, questions: Sequence[str], first: int
    ) -> Generator[Progress, None, list[Basis]]:
        model, reading = self._model, self._reading
        prompts = self._options.prompts.for_instructions()
        options, chunk = self._options, reading.plan.chunk
        writer = Writer(model, prompts, options.sampling, chunk, options.speculate)
        size = note_part_tokens(model.known, prompts.whole(), questions)
        divided = DividedDocument(reading.document, reading.sources, size)
        taker = Notes(writer, divided)
        notes = yield from taker.take(questions, first)
        self.seconds += taker.seconds
        found = []
        for some in notes:
            said = [each.text for each in some]
            text = writer.ids(" ".join(said)) if said else np.empty(0, dtype=np.int32)
            found.append(Basis(text, self._evidence_of_notes(divided, some), notes=said))
        return found

    def _evidence_of_notes(
        self, divided: DividedDocument, notes: Sequence[Noted]
    ) -> list[Evidence]:
        """The sentences of the document behind notes, the best supported ones first."""
        places: dict[tuple[int, int], Noted] = {}
        for each in sorted(notes, key=lambda each: -each.support):
            places.setdefault((each.begin, each.end), each)
        return [
            evidence_at(
                self._reading.document,
                self._reading.sources,
                span,
                score=each.support,
                tokens=len(divided.parts[each.part]),
                quotes=[],
                headings=self._sections.above(span[0]),
            )
            for span, each in places.items()
        ]
