"""What a method does in each layer of a model. Imports neither torch nor transformers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmi_cli.attention.segment import Blocks, First, Recent, Surprising, Track
from lmi_cli.methods.base import Method
from lmi_cli.models.facts import LayerFacts, ModelFacts


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Tokens that the cache of a layer keeps.

    Attributes:
        track: Name of the track.
        text: Which these are, in words.
        tokens: Their number; None if it grows with the text.
        key_heads: Key heads that keep them; None for all.
    """

    track: str
    text: str
    tokens: int | None
    key_heads: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class DrawnLayer:
    """A layer under a method; two are of one kind if they are equal.

    Attributes:
        facts: What it is.
        kept: What its cache keeps; empty for a layer without attention.
        untouched: Whether the method leaves it as it was trained: with its own window and no more,
            or without attention.
    """

    facts: LayerFacts
    kept: tuple[KeptTokens, ...]
    untouched: bool

    def described(self) -> Mapping[str, Any]:
        """The same with plain values."""
        return {
            "attention": self.facts.attends,
            "positions": self.facts.positions,
            "native_window": self.facts.window,
            "chunked": self.facts.chunked,
            "learned_sinks": self.facts.sinks,
            "recurrent": self.facts.recurrent,
            "as_trained": self.untouched,
            "keeps": [asdict(kept) for kept in self.kept],
        }


def drawn_layers(facts: ModelFacts, method: Method) -> list[DrawnLayer]:
    """All layers of a model in order, under a method."""
    attending = iter(facts.layers)
    drawn = []
    for layer in facts.every_layer:
        tracks = method.tracks(next(attending)) if layer.attends else ()
        own = [Recent(layer.window)] if layer.window is not None else None
        untouched = not layer.attends or [track.retention for track in tracks] == own
        drawn.append(DrawnLayer(layer, tuple(map(_kept, tracks)), untouched))
    return drawn


def _kept(track: Track) -> KeptTokens:
    retention = track.retention
    tokens = None if isinstance(retention, Blocks) else retention.tokens
    match retention:
        case First():
            text = f"{tokens:,} starting tokens"
        case Recent(tokens=None):
            text = "every token"
        case Recent():
            text = f"window {tokens:,}"
        case Surprising():
            text = f"{tokens:,} unlikely tokens, window {retention.recent:,}"
        case Blocks():
            text = "blocks of every token"
    if track.heads is not None:
        text += f" in {len(track.heads)} key {'head' if len(track.heads) == 1 else 'heads'}"
    return KeptTokens(track.name, text, tokens, track.heads)
