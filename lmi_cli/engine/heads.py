"""Which heads of a model look things up; see :mod:`lmi_cli.engine.retrieval`. Imports nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class AttentionHead(NamedTuple):
    """A query head."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class RetrievalHeads:
    """The heads of a model that look things up.

    Attributes:
        heads: Best first.
        distance: Tokens; the one distance at which every key is scored.
    """

    heads: tuple[AttentionHead, ...]
    distance: int


def key_heads_of(
    heads: Iterable[AttentionHead], query_heads: int, key_heads: int
) -> dict[int, list[int]]:
    """The key heads that ``heads`` look at, by layer, both ascending.

    Args:
        heads: Of the model.
        query_heads: In a layer.
        key_heads: In a layer.
    """
    folds = query_heads // key_heads
    chosen: dict[int, set[int]] = {}
    for layer, head in heads:
        chosen.setdefault(layer, set()).add(head // folds)
    return {layer: sorted(chosen[layer]) for layer in sorted(chosen)}
