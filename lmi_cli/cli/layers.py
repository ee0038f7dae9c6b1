"""The layers of a model as a drawing: a character for each, and a line for each kind of layer."""

import textwrap
from collections.abc import Iterator, Sequence
from string import digits
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmi_cli.tasks.layers import DrawnLayer

_POSITIONS = {"rope": "rope", "alibi": "ALiBi", "none": "no positions"}
_LONGEST_PATTERN = 16
_GROUP = 8


def layer_lines(layers: Sequence["DrawnLayer"], method: str, width: int) -> list[str]:
    """The drawing, if there are several kinds of layers, and its legend.

    Args:
        layers: What :func:`lmi_cli.tasks.layers.drawn_layers` returned, at least one.
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


def layer_objects(layers: Sequence["DrawnLayer"]) -> list[dict[str, Any]]:
    """The same for ``--json``."""
    return [{"index": index, **layer.described()} for index, layer in enumerate(layers)]


def _letters(layers: Sequence["DrawnLayer"]) -> dict["DrawnLayer", str]:
    """A character for each kind of layer, in order of appearance."""
    letters: dict[DrawnLayer, str] = {}
    for layer in dict.fromkeys(layers):
        facts = layer.facts
        if facts.passive:
            base = "m"
        elif facts.recurrent:
            base = "b" if facts.attends else "r"
        elif facts.window is not None:
            base = "c" if facts.chunked else "w"
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


def _described(layer: "DrawnLayer", method: str) -> str:
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
    own = "chunks" if facts.chunked else "window"
    if layer.untouched:
        return f"{', '.join(parts)}: keeps its own {own} of {facts.window:,}"
    if facts.window is not None:
        parts.append(f"own {own} of {facts.window:,}")
    return f"{', '.join(parts)}: {method}, {' + '.join(kept.text for kept in layer.kept)}"
