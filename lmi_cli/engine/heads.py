"""Retrieval heads of a model; see :mod:`lmi_cli.engine.retrieval`. Imports the standard library."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class AttentionHead(NamedTuple):
    """A query head."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class RetrievalHeads:
    """The retrieval heads of a model.

    Attributes:
        heads: Best first.
        distance: The one distance, in tokens, at which every key is scored.
    """

    heads: tuple[AttentionHead, ...]
    distance: int


def key_heads_of(
    heads: Iterable[AttentionHead], query_heads: int, key_heads: int
) -> dict[int, list[int]]:
    """The key heads that ``heads`` attend to, by layer, both in ascending order.

    Args:
        heads: Query heads of a model.
        query_heads: Query heads of each layer.
        key_heads: Key heads of each layer.
    """
    folds = query_heads // key_heads
    chosen: dict[int, set[int]] = {}
    for layer, head in heads:
        chosen.setdefault(layer, set()).add(head // folds)
    return {layer: sorted(chosen[layer]) for layer in sorted(chosen)}
