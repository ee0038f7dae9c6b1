"""The layers of a model as a drawing: a character for each, and a line for each kind of layer."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import digits
from typing import TYPE_CHECKING, Any

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Blocks, First, Recent, Surprising, Track
from lmi_cli.methods.base import Method

if TYPE_CHECKING:
    from lmi_cli.models.facts import LayerFacts, ModelFacts

_POSITIONS = {"rope": "rope", "alibi": "ALiBi", "none": "no positions"}
_LONGEST_PATTERN = 16
_GROUP = 8


@dataclass(frozen=True, slots=True)
class DrawnLayer:
    """A layer under a method; two are of one kind if they are equal.

    Attributes:
        facts: What it is.
        tracks: What its cache keeps; empty for a layer without attention.
        untouched: Whether the method leaves it the window that it was trained with, and no more.
    """

    facts: "LayerFacts"
    tracks: tuple[Track, ...]
    untouched: bool


def drawn_layers(facts: "ModelFacts", method: Method) -> list[DrawnLayer]:
    """All layers of a model in order, under a method."""
    attending = iter(facts.layers)
    return [
        _drawn(layer, next(attending), method) if layer.attends else DrawnLayer(layer, (), True)
        for layer in facts.every_layer
    ]


def _drawn(facts: "LayerFacts", spec: LayerSpec, method: Method) -> DrawnLayer:
    tracks = method.tracks(spec)
    kept = [track.retention for track in tracks]
    return DrawnLayer(facts, tracks, facts.window is not None and kept == [Recent(facts.window)])


def layer_lines(layers: Sequence[DrawnLayer], method: str, width: int) -> list[str]:
    """The drawing, if there are several kinds of layers, and its legend.

    Args:
        layers: What :func:`drawn_layers` returned, at least one.
        method: Name of the method.
        width: Columns of a line, at least 20.
    """
    letters = _letters(layers)
    lines = [] if len(letters) == 1 else _drawing([letters[layer] for layer in layers], width)
    places = len(str(max(layers.count(kind) for kind in letters)))
    for kind, letter in letters.items():
        count = layers.count(kind)
        head = f"{letter}  {count:>{places}}  " if len(letters) > 1 else f"all {count:,}: "
        lines += textwrap.wrap(
            head + _described(kind, method),
            width,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )
    return lines


def layer_objects(layers: Sequence[DrawnLayer]) -> list[dict[str, Any]]:
    """The same for ``--json``."""
    return [
        {
            "index": index,
            "attention": layer.facts.attends,
            "positions": layer.facts.positions,
            "native_window": layer.facts.window,
            "learned_sinks": layer.facts.sinks,
            "recurrent": layer.facts.recurrent,
            "as_trained": layer.untouched,
            "keeps": [
                {"track": track.name, "tokens": _tokens(track), "key_heads": track.heads}
                for track in layer.tracks
            ],
        }
        for index, layer in enumerate(layers)
    ]


def _letters(layers: Sequence[DrawnLayer]) -> dict[DrawnLayer, str]:
    """A character for each kind of layer, in order of appearance."""
    letters: dict[DrawnLayer, str] = {}
    for layer in dict.fromkeys(layers):
        facts = layer.facts
        if facts.passive:
            base = "m"
        elif facts.recurrent:
            base = "b" if facts.attends else "r"
        elif facts.window is not None:
            base = "w"
        else:
            base = {"alibi": "a", "none": "n"}.get(facts.positions or "", "g")
        taken = set(letters.values())
        letters[layer] = next((at for at in (base, base.upper(), *digits) if at not in taken), "?")
    return letters


def _drawing(characters: Sequence[str], width: int) -> list[str]:
    """Characters in groups of about eight, or of the pattern that repeats."""
    pattern = _period(characters) or 1
    drawn, size = "".join(characters), pattern * max(1, _GROUP // pattern if pattern < 4 else 1)
    groups = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    room = width - len(str(len(characters))) - 2
    rows: list[list[str]] = [[]]
    for group in groups:
        if rows[-1] and len(" ".join([*rows[-1], group])) > room:
            rows.append([])
        rows[-1].append(group)
    if len(rows) == 1:
        return [" ".join(rows[0])]
    return list(_numbered(rows, len(str(len(characters)))))


def _numbered(rows: Sequence[Sequence[str]], places: int) -> Iterator[str]:
    """Rows behind the index of their first layer."""
    first = 0
    for row in rows:
        yield f"{first:>{places}}  {' '.join(row)}"
        first += sum(map(len, row))


def _period(characters: Sequence[str]) -> int | None:
    """Length of the shortest pattern that repeats all along; None for a long one, or none."""
    for length in range(2, min(_LONGEST_PATTERN, len(characters) // 2) + 1):
        if all(characters[at] == characters[at % length] for at in range(length, len(characters))):
            return length
    return None


def _described(layer: DrawnLayer, method: str) -> str:
    """What a layer is, and what the method does there."""
    facts = layer.facts
    if not facts.attends:
        if facts.passive:
            return "an MLP alone: neither attention nor a state"
        return "recurrent, no attention: carries a state of constant size"
    parts = ["recurrent and attention"] if facts.recurrent else []
    parts.append(_POSITIONS.get(facts.positions or "", "attention"))
    if facts.sinks:
        parts.append("learned sinks")
    if layer.untouched:
        return f"{', '.join(parts)}: keeps its own window of {facts.window:,}"
    if facts.window is not None:
        parts.append(f"own window of {facts.window:,}")
    return f"{', '.join(parts)}: {method}, {' + '.join(map(_kept_text, layer.tracks))}"


def _tokens(track: Track) -> int | None:
    """Tokens that a track keeps; None if they grow with the text."""
    return None if isinstance(track.retention, Blocks) else track.retention.tokens


def _kept_text(track: Track) -> str:
    kept = track.retention
    match kept:
        case First():
            text = f"{kept.tokens:,} starting tokens"
        case Recent(tokens=None):
            text = "every token"
        case Recent():
            text = f"window {kept.tokens:,}"
        case Surprising():
            text = f"{kept.tokens:,} unlikely tokens, window {kept.recent:,}"
        case Blocks():
            text = "blocks of every token"
    if track.heads is None:
        return text
    return f"{text} in {len(track.heads)} key {'head' if len(track.heads) == 1 else 'heads'}"
