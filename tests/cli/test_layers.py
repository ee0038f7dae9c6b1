"""How the layers of a model are drawn."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import pytest

from lmi_cli.cli.layers import drawn_layers, layer_lines, layer_objects
from lmi_cli.methods import METHODS, Method, MethodChoice
from lmi_cli.models.facts import LayerFacts, ModelFacts

ROPE, NONE, ALIBI = LayerFacts(), LayerFacts("none"), LayerFacts("alibi")
OWN = LayerFacts("rope", 512)
STATE, BOTH = LayerFacts(None, recurrent=True), LayerFacts("rope", recurrent=True)
SINKS = [LayerFacts("rope", 128, sinks=True), LayerFacts("rope", sinks=True)]
MODELS = {
    "llama": [ROPE] * 30,
    "gemma 3": ([OWN] * 5 + [ROPE]) * 10 + [OWN] * 2,
    "gpt-oss": SINKS * 12,
    "smollm3": ([ROPE] * 3 + [NONE]) * 9,
    "jamba": ([STATE] * 4 + [NONE] + [STATE] * 3) * 4,
    "falcon-h1": [BOTH] * 36,
    "mpt": [ALIBI] * 32,
    "nemotron-h": [STATE, LayerFacts(None, passive=True), ROPE] * 4,
    "irregular": [ROPE, OWN, OWN, ROPE, NONE] + [OWN] * 30 + [STATE] * 5,
}


def facts(layers: Sequence[LayerFacts]) -> ModelFacts:
    windows = tuple(layer.window for layer in layers if layer.attends)
    every = tuple(layers)
    return ModelFacts("x", 32768, windows, 4, 2, 8, 32, 99, "float32", 9, all_layers=every)


def method(name: str = "lm-infinite", **given: Any) -> Method:
    choice = MethodChoice(name, given)
    return choice.build(window=8192, prefix_tokens=1, trained_length=32768, tokens=65536)


def lines(layers: Sequence[LayerFacts], width: int = 64, **given: Any) -> list[str]:
    return layer_lines(drawn_layers(facts(layers), method(**given)), "lm-infinite", width)


def test_alike_layers_are_one_line() -> None:
    assert lines(MODELS["llama"]) == [
        "all 30: rope: lm-infinite, window 8,192 + 10 starting tokens"
    ]
    assert lines(MODELS["mpt"], 99)[0].startswith("all 32: ALiBi: lm-infinite, window")


def test_a_hybrid_of_windows_in_lines_with_the_index_of_their_first_layer() -> None:
    assert lines(MODELS["gemma 3"]) == [
        " 0  wwwwwg wwwwwg wwwwwg wwwwwg wwwwwg wwwwwg wwwwwg wwwwwg",
        "48  wwwwwg wwwwwg ww",
        "w  52  rope: keeps its own window of 512",
        "g  10  rope: lm-infinite, window 8,192 + 10 starting tokens",
    ]


def test_learned_sinks_layers_without_positions_and_with_a_state() -> None:
    assert lines(MODELS["gpt-oss"], 99) == [
        "wgwgwgwg wgwgwgwg wgwgwgwg",
        "w  12  rope, learned sinks: keeps its own window of 128",
        "g  12  rope, learned sinks: lm-infinite, window 8,192 + 10 starting tokens",
    ]
    assert lines(MODELS["smollm3"])[0] == " ".join(["gggn"] * 9)
    assert lines(MODELS["jamba"], 99) == [
        "rrrrnrrr rrrrnrrr rrrrnrrr rrrrnrrr",
        "r  28  recurrent, no attention: carries a state of constant size",
        "n   4  no positions: lm-infinite, window 8,192 + 10 starting tokens",
    ]
    assert lines(MODELS["falcon-h1"], 99)[0].startswith("all 36: recurrent and attention, rope: lm")


def test_what_a_method_does_to_some_layers_makes_kinds() -> None:
    drawn = lines([ROPE] * 12, 99, dense_layers="0,5,8-11")
    assert drawn[0] == "gGGGGgGG gggg"
    assert drawn[1] == "g  6  rope: lm-infinite, window 8,192 + every token"
    narrow = lines([OWN, ROPE], 99, window=256)
    assert (
        narrow[1] == "w  1  rope, own window of 512: lm-infinite, window 256 + 10 starting tokens"
    )


@pytest.mark.parametrize("width", [44, 64, 144])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_drawn_within_the_width(name: str, width: int) -> None:
    layers = MODELS[name]
    drawn = lines(layers, width)
    assert max(map(len, drawn)) <= width
    if len(set(layers)) > 1:
        rows = takewhile(lambda line: not re.match(r"[a-zA-Z]  +\d+  ", line), drawn)
        letters = "".join(re.sub(r"^ *\d+  ", "", row) for row in rows).replace(" ", "")
        assert len(letters) == len(layers)
        # One letter a kind, one kind a letter.
        pairs = set(zip(letters, layers, strict=True))
        assert len(pairs) == len(set(letters)) == len(set(layers))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_described(name: str) -> None:
    drawn = drawn_layers(facts([OWN, ROPE, STATE]), method(name))
    assert len(layer_lines(drawn, name, 64)) >= 4
    objects = layer_objects(drawn)
    assert [layer["attention"] for layer in objects] == [True, True, False]
    assert objects[2]["keeps"] == [] and objects[1]["keeps"]


def test_a_header_of_a_gguf_file_tells_the_windows_alone() -> None:
    known = ModelFacts("x", 8192, (512, None), 4, 2, 8, 32, 99, "bfloat16", 9)
    drawn = layer_lines(drawn_layers(known, method()), "lm-infinite", 99)
    assert drawn[1] == "w  1  attention: keeps its own window of 512"
