"""Passages that are read again for an answer: how many, and in which order they stand in a prompt.

What stands in the middle of a long prompt is used less than what stands at its ends (Liu et al.
2024, "Lost in the Middle", arXiv 2307.03172). The orders are:

* ``document``: as in the document;
* ``best-last``: the better a passage ranks, the nearer it stands to the question;
* ``ends``: the best one at the end, the second best at the beginning, the third before the best
  one, and so on, so that the worst stand in the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lmi_cli.engine.engine import Ids
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.finder import Ranked, read_again
from lmi_cli.tasks.report import Evidence, Quote
from lmi_cli.text.tokenizer import Tokenizer

_GAP = "\n\n"
"""Between passages that do not follow each other."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What is read in front of a question, in a prompt of its own.

    Attributes:
        text: Ids of the text.
        evidence: Where it comes from, best first.
        passages: Those that are in it.
        notes: Those that are in it.
    """

    text: Ids
    evidence: list[Evidence]
    passages: list[Passage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def best_passages(
    document: Document,
    tokenizer: Tokenizer,
    ranked: Sequence[Ranked],
    quotes: Sequence[Quote],
    room: int,
    most: int | None,
    order: str,
) -> Basis:
    """The passages that are read again for an answer, and what matters in the best said again.

    Args:
        document: The document.
        tokenizer: The model's.
        ranked: Its passages, best first.
        quotes: The sentences of the best one that matter, which stand behind all of them.
        room: Tokens for which the prompt has room.
        most: How many at most; None for those of :func:`lmi_cli.tasks.finder.read_again`.
        order: One of ``plan.ORDERS``.
    """
    said = [document.ids[:0]]
    if quoted := " ".join(quote.text.strip() for quote in quotes):
        said = [tokenizer.encode(text).ids for text in (_GAP, quoted)]
    again = read_again(ranked)
    best = [item.passage for item in ranked if item.passage in again]
    if most is not None:
        some = fitting(ranked, tokenizer, room - sum(map(len, said)), most)
        best = [item.passage for item in some] or best[:1]
    passages = arranged(best, order)
    return Basis(np.concatenate([text_of(document, tokenizer, passages), *said]), [], passages)


def fitting(
    ranked: Sequence[Ranked], tokenizer: Tokenizer, room: int, most: int | None = None
) -> list[Ranked]:
    """The best passages that have room together, best first.

    Args:
        ranked: All passages, best first.
        tokenizer: The model's.
        room: Tokens that they may take, with what stands between them.
        most: How many at most; None for as many as have room.
    """
    gap = len(tokenizer.encode(_GAP).ids)
    found: list[Ranked] = []
    for item in ranked:
        if len(found) == most:
            break
        if len(item.passage) + gap <= room:
            found.append(item)
            room -= len(item.passage) + gap
    return found


def arranged(best: Sequence[Passage], order: str) -> list[Passage]:
    """Passages, given from the best to the worst, in one of ``plan.ORDERS``."""
    if order == "document":
        return sorted(best, key=lambda passage: passage.first)
    if order == "best-last":
        return list(reversed(best))
    return [*best[1::2], *reversed(best[::2])]


def text_of(document: Document, tokenizer: Tokenizer, passages: Sequence[Passage]) -> Ids:
    """The ids of passages in a given order; there is a gap where two do not follow each other."""
    gap = tokenizer.encode(_GAP).ids
    parts: list[Ids] = []
    for number, passage in enumerate(passages):
        if number and passages[number - 1].stop != passage.first:
            parts.append(gap)
        parts.append(document.ids[passage.first : passage.stop])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
