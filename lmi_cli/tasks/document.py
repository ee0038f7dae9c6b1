"""A document that has been read: tokens, text, and the places in the sources they come from."""

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
    """Consecutive tokens of a document.

    Attributes:
        number: Zero-based, in the order of the document.
        first: Its first token.
        stop: The first token behind it.
    """

    number: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


class Document:
    """Tokens and text, which grow while the document is read.

    Attributes:
        provenance: The place in the sources of each character.
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
        """Append tokens, whose text the provenance has been told of."""
        self._ids.append(block.ids)
        self._starts.append(block.starts)
        self._text.append(block.text)
        self.tokens += len(block.ids)
        self.provenance.count_by_source(block.starts, self.source_tokens)
        self._borders = None

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """A description for JSON and arrays by name, for :meth:`restored`."""
        blocks, line_feeds, labels = self.provenance.dump()
        description: dict[str, Any] = {
            "tokens": self.tokens,
            "chars": self.provenance.chars,
            "labels": labels,
            "source_tokens": self.source_tokens,
        }
        text = self.text.encode("utf-8", "surrogatepass")
        arrays: dict[str, NDArray[Any]] = {
            "ids": self.ids,
            "starts": self.starts,
            "text": np.frombuffer(text, dtype=np.uint8).copy(),
            "blocks": blocks,
            "line_feeds": line_feeds,
        }
        return description, arrays

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> "Document":
        """Restore the document that :meth:`save` was called on.

        Raises:
            KeyError: A part of it is missing.
        """
        document = cls()
        document.provenance = Provenance.restored(
            arrays["blocks"], arrays["line_feeds"], description["labels"], description["chars"]
        )
        document.source_tokens = description["source_tokens"]
        document._ids, document._starts = [arrays["ids"]], [arrays["starts"]]
        document._text = [arrays["text"].tobytes().decode("utf-8", "surrogatepass")]
        document.tokens = len(arrays["ids"])
        return document

    @property
    def ids(self) -> Ids:
        """All ids, int32."""
        self._ids = [np.concatenate(self._ids)] if len(self._ids) != 1 else self._ids
        return self._ids[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Offset of each token in the text, int64: that of the character in which it begins."""
        self._starts = [np.concatenate(self._starts)] if len(self._starts) != 1 else self._starts
        return self._starts[0]

    @property
    def text(self) -> str:
        """The whole text, with the lines that name the sources."""
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def borders(self) -> NDArray[np.int64]:
        """Tokens at which passages begin, then the number of tokens; no passage spans two pages."""
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

    def span(self, passage: Passage) -> tuple[int, int]:
        """Offsets of a passage in the text, without surrounding white space and the source's name.

        A passage that consists of these alone keeps its offsets.
        """
        begin = int(self.starts[passage.first])
        end = (
            int(self.starts[passage.stop]) if passage.stop < self.tokens else self.provenance.chars
        )
        first, stop = self.provenance.behind_header(begin, end), end
        while first < stop and self.text[first].isspace():
            first += 1
        while first < stop and self.text[stop - 1].isspace():
            stop -= 1
        return (first, stop) if first < stop else (begin, end)
