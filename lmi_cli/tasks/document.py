"""A document that has been read: its tokens, its text, and their places in the sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmi_cli.engine.engine import Ids
from lmi_cli.text.passages import cut
from lmi_cli.text.provenance import Place, Provenance
from lmi_cli.text.stream import TokenBlock

PASSAGE_TOKENS = 128
"""Size of a passage in tokens; see ``docs/memory.md``."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens ``first`` to ``stop`` (exclusive) of a document; passages are numbered from zero."""

    number: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


class Document:
    """Tokens and text, which grow while the document is read.

    Attributes:
        provenance: The place of each character in the sources.
        source_tokens: Number of tokens by source, without the lines that name the sources.
    """

    def __init__(self) -> None:
        self.provenance = Provenance()
        self.source_tokens: list[int] = []
        self._ids: list[Ids] = []
        self._starts: list[NDArray[np.int64]] = []
        self._text: list[str] = []
        self._borders: NDArray[np.int64] | None = None
        self.tokens = 0

    def add(self, block: TokenBlock) -> None:
        """Append tokens whose text is already recorded in the provenance."""
        self._ids.append(block.ids)
        self._starts.append(block.starts)
        self._text.append(block.text)
        self.tokens += len(block.ids)
        self.provenance.count_by_source(block.starts, self.source_tokens)
        self._borders = None

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a description for JSON, and arrays by name, for :meth:`restored`."""
        blocks, line_feeds, labels = self.provenance.dump()
        description: dict[str, Any] = {
            "tokens": self.tokens,
            "chars": self.provenance.chars,
            "labels": labels,
        }
        text = self.text.encode("utf-8", "surrogatepass")
        arrays: dict[str, NDArray[Any]] = {"ids": self.ids, "starts": self.starts, "blocks": blocks}
        arrays |= {"line_feeds": line_feeds, "text": np.frombuffer(text, dtype=np.uint8).copy()}
        return description, arrays

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], sources: int
    ) -> "Document":
        """Restore a document of a number of sources from the results of :meth:`save`.

        Raises:
            KeyError: A part of it is missing.
            ValueError: Its parts contradict each other.
        """
        ids, starts = arrays["ids"], arrays["starts"]
        text = arrays["text"].tobytes().decode("utf-8", "surrogatepass")
        if ids.dtype != np.int32 or starts.dtype != np.int64 or ids.ndim != 1:
            raise ValueError("its ids or their offsets are of another type")
        if not (description["tokens"] == len(ids) and ids.shape == starts.shape):
            raise ValueError("its tokens, their ids and their offsets differ in number")
        if description["chars"] != len(text):
            raise ValueError("its text has another length")
        if len(starts) and not (starts[0] == 0 and starts[-1] < len(text)):
            raise ValueError("its tokens are those of another text")
        if (np.diff(starts) < 0).any():
            raise ValueError("its tokens are not in order")
        document = cls()
        document.provenance = Provenance.restored(
            arrays["blocks"], arrays["line_feeds"], description["labels"], len(text), sources
        )
        document._ids, document._starts, document._text = [ids], [starts], [text]
        document.tokens = len(ids)
        document.provenance.count_by_source(starts, document.source_tokens)
        return document

    @property
    def ids(self) -> Ids:
        """All ids, int32."""
        self._ids = [np.concatenate(self._ids)] if len(self._ids) != 1 else self._ids
        return self._ids[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Offset in the text of the character in which each token begins, int64."""
        self._starts = [np.concatenate(self._starts)] if len(self._starts) != 1 else self._starts
        return self._starts[0]

    @property
    def text(self) -> str:
        """The whole text, including the lines that name the sources."""
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def borders(self) -> NDArray[np.int64]:
        """The first token of each passage, then the number of tokens; pages split passages."""
        if self._borders is None:
            sections = np.unique(np.searchsorted(self.starts, self.provenance.sections()))
            sections = sections[sections < self.tokens]
            self._borders = cut(self.text, self.starts, sections, PASSAGE_TOKENS)
        return self._borders

    def place(self, token: int) -> Place:
        """The place of a token in the sources.

        Raises:
            IndexError: There is no such token.
        """
        if not 0 <= token < self.tokens:
            raise IndexError("beyond the document")
        return self.provenance.locate(int(self.starts[token]))

    def section(self, offset: int) -> tuple[int, int]:
        """Offsets in the text at which the page or source around an offset begins and ends."""
        sections = self.provenance.sections()
        at = int(np.searchsorted(sections, offset, side="right"))
        begin = self.provenance.behind_header(int(sections[at - 1]), offset)
        return begin, int(sections[at]) if at < len(sections) else self.provenance.chars

    def span(self, passage: Passage) -> tuple[int, int]:
        """Offsets of a passage in the text, without surrounding white space and source headers.

        A passage that consists of nothing else keeps its offsets.
        """
        begin, end = int(self.starts[passage.first]), self.provenance.chars
        if passage.stop < self.tokens:
            end = int(self.starts[passage.stop])
        end = max(end, begin + 1)  # even if all its tokens are parts of one character
        inside = self.text[self.provenance.behind_header(begin, end) : end]
        first = end - len(inside.lstrip())
        return (first, first + len(inside.strip())) if first < end else (begin, end)
