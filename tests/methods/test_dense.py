"""LM-Infinite with layers and key heads that attend to everything, and what is kept for them."""

from collections.abc import Mapping

import pytest
import torch
from method_references import Mixed
from reference import Middle, reference_logits
from tiny_models import our_logits, precisely, random_ids, tiny_model
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import First, Fixed, Recent, Segment, Track
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.errors import UsageError
from lmi_cli.methods import KeyHead, LMInfinite, MethodChoice, Parameter
from lmi_cli.methods.base import layer_bound, layer_capacity, visible_in_any, visible_spans
from lmi_cli.methods.places import key_heads_in, key_heads_text, layers_in, layers_text
from lmi_cli.models.causal_lm import CausalLM

WINDOW, SINKS, CEILING = 9, 4, 21
COUNT, DOCUMENT = 50, 36
SIZES: Mapping[str, Parameter] = {"window": WINDOW, "sinks": SINKS, "ceiling": CEILING}


def built(
    layers: tuple[int, ...] = (), heads: tuple[tuple[int, int], ...] = ()
) -> tuple[LMInfinite, Mixed]:
    """The method, and the same by its definition."""
    given = dict(SIZES)
    if layers:
        given["dense_layers"] = layers_text(layers)
    if heads:
        given["dense_heads"] = "calibrated"
    retrieval = tuple(KeyHead(*head) for head in heads)
    method = MethodChoice(given=given).build(64, 0, layers=4, retrieval=retrieval)
    assert isinstance(method, LMInfinite)
    return method, Mixed(WINDOW, SINKS, CEILING, None, layers, heads)


@pytest.mark.parametrize("chunk", [1, 7, COUNT])
@pytest.mark.parametrize(
    ("model", "layers", "heads"),
    [
        ("llama-mha", (), ((0, 1), (0, 3), (1, 2))),
        ("llama-mqa", (), ((1, 0),)),
        ("gemma3_text", (0, 1), ((2, 0), (3, 1))),
        ("smollm3", (1,), ((0, 0),)),
    ],
)
def test_heads_that_share_a_key_head_attend_alike(
    model: str, layers: tuple[int, ...], heads: tuple[tuple[int, int], ...], chunk: int
) -> None:
    """One key head a query head, one for all, and layers whose window ends beyond ours."""
    method, reference = built(layers, heads)
    ids = random_ids(COUNT)
    expected = reference_logits(tiny_model(model), ids, reference)
    found = our_logits(tiny_model(model), method, ids, chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def asked(name: str, method: LMInfinite, topk: int) -> Tensor:
    """Logits of a question behind a document, of which what no head sees is searched."""
    model, ids = tiny_model(name), random_ids(COUNT)
    with CausalLM(model) as lm, precisely(model):
        engine = Engine(lm, method, 7)
        state = engine.start()
        searching = [layer.index for layer in engine.layers if method.may_search(layer)]
        store = TokenStore(dict.fromkeys(searching), with_values=True, first=SINKS)
        state.recording = (store,)
        for _ in engine.read(state, [ids[:DOCUMENT]]):
            pass
        given = {"memory_topk": topk, "memory_from_layer": 0, "memory_distance": 5}
        fork = state.fork(method.searching(given, len(engine.layers)), {"store": store})
        events = engine.read(fork, [ids[DOCUMENT:]])
        return lm.logits(torch.cat([event.hidden for event in events]))


@pytest.mark.parametrize(
    ("layers", "heads"), [((1,), ()), ((), ((0, 1), (1, 0))), ((0,), ((1, 1),)), ((), ((1, 0),))]
)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text"])
def test_only_what_does_not_see_everything_searches(
    name: str, layers: tuple[int, ...], heads: tuple[tuple[int, int], ...]
) -> None:
    """And no key is seen twice: a softmax that counted one twice would not be this one."""
    method, reference = built(layers, heads)
    middle = Middle(DOCUMENT, 5, 0, 5)
    reference = Mixed(WINDOW, SINKS, CEILING, middle, reference.layers, reference.heads)
    expected = reference_logits(tiny_model(name), random_ids(COUNT), reference)[DOCUMENT:]
    torch.testing.assert_close(asked(name, method, 5), expected, rtol=0, atol=1e-10)


def test_tracks_of_layers_and_heads() -> None:
    method, _ = built((1,), ((0, 2), (3, 0)))
    window, sinks = Track("window", Recent(WINDOW)), First(SINKS)
    first, second, third, fourth = (LayerSpec(at, None, None, 3) for at in range(4))
    assert method.tracks(first) == (
        window,
        Track("sinks", sinks, Fixed(0), (0, 1)),
        Track("everything", Recent(None), Fixed(0), (2,)),
    )
    assert method.tracks(second) == (window, Track("everything", Recent(None), Fixed(0)))
    assert method.tracks(third) == (window, Track("sinks", sinks, Fixed(0)))
    assert [track.heads for track in method.tracks(fourth)] == [None, (1, 2), (0,)]
    assert [method.may_search(layer) for layer in (first, second)] == [True, False]
    # A layer with a window of its own sees nothing beyond it.
    narrow, wide = LayerSpec(1, None, WINDOW, 3), LayerSpec(1, None, 30, 3)
    assert method.tracks(narrow) == (window,)
    assert method.segments(wide)[1] == Segment("everything", Fixed(CEILING), WINDOW, 30)
    assert visible_spans(method, wide, 99) == [(70, 100)]
    assert visible_spans(method, narrow, 99) == [(91, 100)]


def test_what_is_kept_counts_by_its_share_of_the_heads() -> None:
    method, _ = built((1,), ((0, 2),))
    heads, dense, wide = LayerSpec(0, None, None, 3), LayerSpec(1), LayerSpec(1, None, 30, 3)
    window = WINDOW - 1 + 16
    assert layer_bound(method, heads, 16) is None
    assert layer_bound(method, wide, 16) == window + 29 + 16
    assert layer_capacity(method, heads, 16, 900.0) == window + SINKS * 2 / 3 + 900 / 3
    assert layer_capacity(method, dense, 16, 900.0) == window + 900
    assert visible_in_any(method, [LayerSpec(2), LayerSpec(3)], 99) == [(0, 4), (91, 100)]
    assert visible_in_any(method, [LayerSpec(2), dense], 99) == [(0, 100)]


def test_what_a_model_does_not_have_is_refused() -> None:
    choice = MethodChoice(given={"dense_layers": "3-5,0"})
    assert choice.build(64, 0, layers=6).parameters()["dense_layers"] == "0,3,4,5"
    with pytest.raises(UsageError, match="there is no layer 5, as the model has 5 layers"):
        choice.build(64, 0, layers=5)
    for given in ({"dense_layers": "5-3"}, {"dense_layers": ""}, {"dense_heads": "some"}):
        with pytest.raises(UsageError):
            MethodChoice(given=given)
        with pytest.raises(UsageError):
            LMInfinite(9, 4, 21, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        LMInfinite(9, 4, 21, dense_heads="calibrated", dense_key_heads="1")
    # As long as options are only checked, no model is known; nothing can be read then.
    unknown = MethodChoice(given={"dense_heads": "calibrated"}).build(64, 0)
    with pytest.raises(RuntimeError, match="are not known"):
        unknown.tracks(LayerSpec(0))


@pytest.mark.parametrize(
    ("text", "layers"), [("0", (0,)), ("3,1", (1, 3)), ("2-4, 4 ,9", (2, 3, 4, 9)), ("7-7", (7,))]
)
def test_lists_of_layers(text: str, layers: tuple[int, ...]) -> None:
    assert layers_in(text) == layers == layers_in(layers_text(layers))


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "-1", "1-", "2-1", "a", "1.5", "0-99999", "\u0661"]
)
def test_what_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(UsageError, match="is not a list of layers such as"):
        layers_in(text)


def test_lists_of_key_heads() -> None:
    heads = (KeyHead(2, 1), KeyHead(17, 0))
    assert key_heads_in("17.0,2.1,17.0") == heads == key_heads_in(key_heads_text(heads))
    for text in ("", "1", "1.2.3", "1.-2", "99999.1"):
        with pytest.raises(UsageError, match="is not a list of key heads such as"):
            key_heads_in(text)
