"""The rank of the right passage, where the place that an answer is from is known."""

import re
from collections.abc import Sequence

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.item import EvalItem, GoldPlace
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.finder import Ranked

_SPACE = re.compile(r"\s+")


class GoldPassages:
    """Finds which passages of a document are right.

    Args:
        document: The document.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        bounds = document.borders.tolist()
        self._spans = [
            document.span(Passage(number, bounds[number], bounds[number + 1]))
            for number in range(len(bounds) - 1)
        ]
        locate = document.provenance.locate
        self._first = [locate(begin) for begin, _ in self._spans]
        self._sources = {place.source for place in self._first}
        self._folded: tuple[str, list[int]] | None = None

    def of(self, item: EvalItem) -> set[int]:
        """Numbers of the right passages of a question; none if no place is known.

        Raises:
            NoInputError: The document does not have the place, or several files have it.
        """
        if item.gold is None:
            return set()
        if item.gold.passage is None and len(self._sources) > 1:
            raise NoInputError(
                f"{item.where}: 'page' and 'lines' say nothing about the {len(self._sources):,} "
                f"files of {item.documents[0]}",
                hint="name one of the files, or give a 'passage'",
            )
        if not (found := self.numbers(item.gold)):
            raise NoInputError(f"{item.where}: its document does not have that place")
        return found

    def numbers(self, gold: GoldPlace) -> set[int]:
        """Numbers of the right passages; none if the document has no such place.

        A text that stands on a page of a paged document makes all passages of the page right.
        """
        if gold.page is not None:
            return self._on_pages({(source, gold.page) for source in self._sources})
        if gold.lines is not None:
            low, high = gold.lines
            return {
                number
                for number, place in enumerate(self._first)
                if place.line is not None and place.line <= high and self._last_line(number) >= low
            }
        matches = [] if gold.passage is None else self._matches(gold.passage)
        locate = self._document.provenance.locate
        places = {locate(at) for match in matches for at in match}
        if places and all(place.page is not None for place in places):
            return self._on_pages({(place.source, place.page) for place in places})
        return {
            number
            for number, (begin, end) in enumerate(self._spans)
            if any(first < end and begin <= last for first, last in matches)
        }

    def rank(self, ranked: Sequence[Ranked], right: set[int]) -> int | None:
        """Rank of the best right passage, from one; of each page, only the best passage counts."""
        pages: set[tuple[int, int]] = set()
        rank = 0
        for item in ranked:
            place = self._first[item.passage.number]
            if place.page is not None:
                if (place.source, place.page) in pages:
                    continue
                pages.add((place.source, place.page))
            rank += 1
            if item.passage.number in right:
                return rank
        return None

    def _on_pages(self, pages: set[tuple[int, int | None]]) -> set[int]:
        first = enumerate(self._first)
        return {number for number, place in first if (place.source, place.page) in pages}

    def _last_line(self, number: int) -> int:
        return self._document.provenance.locate(self._spans[number][1] - 1).line or 0

    def _matches(self, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
        """Offsets of the first and the last character of each match."""
        if self._folded is None:
            text, parts, offsets, at = self._document.text, list[str](), list[int](), 0
            for space in _SPACE.finditer(text):
                parts += [text[at : space.start()], " "]
                offsets += range(at, space.start() + 1)
                at = space.end()
            self._folded = "".join([*parts, text[at:]]), [*offsets, *range(at, len(text))]
        folded, places = self._folded
        return [
            (places[match.start()], places[match.end() - 1])
            for match in pattern.finditer(folded)
            if match.end() > match.start()
        ]
