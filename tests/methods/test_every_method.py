"""What holds for every method in the table, so that a new one is tested by being added.

A method needs one row here: options that make it work within the texts below, and a reference that
computes it from its definition alone.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from method_references import Everything, Groups, Mixed, Rescaled, Streaming, Window
from reference import Lambda, Reference, reference_logits
from selective_references import Looking, Surprise, told_logits
from tiny_models import our_logits, precisely, random_ids, stock_logits, tiny_model
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.engine.engine import Engine
from lmi_cli.errors import ModelError
from lmi_cli.methods import METHODS, KeyHead, Method, MethodChoice, Parameter
from lmi_cli.methods.base import bound, layer_capacity, visible_spans
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.plain_shape import plain_shape
from lmi_cli.native import attention, library

WINDOW = 9
COUNT = 40


@dataclass(frozen=True)
class Row:
    """Options of a method, and the same method written in another way."""

    reference: Reference
    given: dict[str, Parameter] = field(default_factory=dict)
    plain_only: bool = False
    """Whether it is for models whose frequencies are not scaled already."""
    certain: Reference | None = None
    """What is seen whatever the text says, if that is less."""
    retrieval: tuple[KeyHead, ...] = ()
    """Retrieval heads of the model, for a method that needs them."""


SIZES = {"window": WINDOW, "sinks": 4, "ceiling": 21}
# One key head in the first layer, and of models with two all of them in the second.
HEADS = (KeyHead(0, 1), KeyHead(1, 0), KeyHead(1, 1))
DENSE_HEADS = {"dense_heads": "calibrated"}
ROWS: dict[str, list[Row]] = {
    "lm-infinite": [
        Row(Lambda(WINDOW, 4, 21), SIZES),
        Row(Mixed(WINDOW, 4, 21, layers=(1,)), SIZES | {"dense_layers": "1"}),
        Row(Mixed(WINDOW, 0, 21, layers=(0, 1)), SIZES | {"sinks": 0, "dense_layers": "0-1"}),
        Row(Mixed(WINDOW, 4, 21, heads=HEADS), SIZES | DENSE_HEADS, retrieval=HEADS),
        Row(
            Mixed(WINDOW, 4, 21, layers=(1,), heads=HEADS[:2]),
            SIZES | DENSE_HEADS | {"dense_layers": "1"},
            retrieval=HEADS[:2],
        ),
    ],
    "streaming-llm": [
        Row(Streaming(4, WINDOW - 1), {"window": WINDOW, "sinks": 4}),
        Row(Streaming(13, 0), {"window": 1, "sinks": 13}),
    ],
    "self-extend": [
        Row(Groups(WINDOW, 4), {"window": WINDOW, "group": 4}),
        Row(Groups(1, 7), {"window": 1, "group": 7}),
    ],
    "sir-llm": [
        Row(
            Surprise(2, 5, 16),
            {"window": 16, "sinks": 2, "surprising": 5},
            certain=Surprise(2, 5, 16, certain=True),
        ),
        Row(
            Surprise(0, 3, 9),
            {"window": 9, "sinks": 0, "surprising": 3},
            certain=Surprise(0, 3, 9, certain=True),
        ),
    ],
    "inf-llm": [
        Row(
            Looking(WINDOW, 2, 3, 2, 2, 4),
            {
                "window": WINDOW,
                "sinks": 2,
                "block_tokens": 3,
                "top_blocks": 2,
                "representatives": 2,
                "lookup": 4,
            },
            certain=Looking(WINDOW, 2, 3, 0, 2, 4),
        ),
        Row(
            Looking(8, 0, 4, 1, 4, 1),
            {
                "window": 8,
                "sinks": 0,
                "block_tokens": 4,
                "top_blocks": 1,
                "representatives": 4,
                "lookup": 1,
            },
            certain=Looking(8, 0, 4, 0, 4, 1),
        ),
    ],
    "truncate": [Row(Window(WINDOW), {"window": WINDOW})],
    "native": [Row(Everything())],  # in attention layers; see models/test_recurrent.py
    "full": [
        Row(Everything()),
        *(
            Row(Rescaled(kind=kind, factor=4), {"rope_scaling": kind, "rope_factor": 4}, True)
            for kind in ("linear", "dynamic", "yarn")
        ),
        Row(Rescaled(kind="truncated"), {"rope_scaling": "truncated"}, True),
    ],
}
CASES = [
    pytest.param(name, row, id=f"{name}-{number}")
    for name in ROWS
    for number, row in enumerate(ROWS[name])
]
LARGE = {"hidden_size": 96, "head_dim": 64, "intermediate_size": 160, "num_attention_heads": 6}
MODELS = [
    "llama",
    "llama-llama3",
    "llama-yarn",
    "llama4_text",
    "cohere2",
    "gemma2",
    "gpt_neox",
    "mistral-sliding",
    "phi3-longrope",
]
SCALED = {"llama-llama3", "llama-yarn", "phi3-longrope"}
CHUNKS = [1, 7, WINDOW - 1, WINDOW, WINDOW + 1, COUNT]
# How a text is cut meets the window of a method and of a layer (mistral-sliding), and the chunk of
# a layer (llama4_text); rotation, caps and norms do not depend on it, so that two cuts show that
# every method suits the models that differ in those.
UNCUT = {"cohere2", "gemma2", "gpt_neox", "llama-llama3", "llama-yarn", "phi3-longrope"}
CUTS = [
    (model, chunk) for model in MODELS for chunk in ([7, WINDOW + 1] if model in UNCUT else CHUNKS)
]


def built(name: str, row: Row) -> Method:
    return MethodChoice(name, row.given).build(64, 0, layers=2, retrieval=row.retrieval)


@cache
def expected_logits(model: str, name: str, number: int) -> Tensor:
    reference, ids = ROWS[name][number].reference, random_ids(COUNT)

    def logits_of(method: Reference) -> Tensor:
        return reference_logits(tiny_model(model), ids, method)

    if isinstance(reference, Surprise):
        return told_logits(logits_of, reference, ids)
    return logits_of(reference)


def test_every_method_has_a_row() -> None:
    assert ROWS.keys() == METHODS.keys()


@pytest.mark.parametrize(("model", "chunk"), CUTS)
@pytest.mark.parametrize(("name", "row"), CASES)
def test_it_is_what_its_definition_says(name: str, row: Row, model: str, chunk: int) -> None:
    if row.plain_only and model in SCALED:
        with pytest.raises(ModelError, match="are scaled already, so --rope-scaling"):
            our_logits(tiny_model(model), built(name, row), random_ids(COUNT), chunk)
        return
    expected = expected_logits(model, name, ROWS[name].index(row))
    found = our_logits(tiny_model(model), built(name, row), random_ids(COUNT), chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "row"), CASES)
def test_within_its_window_it_is_the_stock_model(name: str, row: Row) -> None:
    method = built(name, row)
    exact = COUNT if method.exact_length is None else method.exact_length
    model, ids = tiny_model("llama"), random_ids(COUNT)
    found, stock = our_logits(model, method, ids, 4), stock_logits(model, ids)
    torch.testing.assert_close(found[:exact], stock[:exact], rtol=0, atol=1e-10)
    assert exact == COUNT or (found[exact:] - stock[exact:]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "row"), CASES)
def test_no_token_sees_a_later_one(name: str, row: Row) -> None:
    model, ids = tiny_model("llama", torch.float32), random_ids(COUNT)
    other = ids.copy()
    other[20] = 3 if ids[20] != 3 else 4
    one, two = (our_logits(model, built(name, row), given, 7) for given in (ids, other))
    assert torch.equal(one[:20], two[:20])
    assert not torch.equal(one[20], two[20])


@pytest.mark.parametrize("origin", [2**24 - 1, 200_000_001, 2**31 + 1, 2**40])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_only_differences_of_positions_matter(name: str, row: Row, origin: int) -> None:
    """As if the stream had begun far away: any absolute float32 fails."""
    model, ids = tiny_model("llama", torch.float32), random_ids(100)
    near = our_logits(model, built(name, row), ids, 16)
    far = our_logits(model, built(name, row), ids, 16, origin=origin)
    torch.testing.assert_close(far, near, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("native", "chunked"), [(None, False), (5, False), (12, False), (13, True)]
)
@pytest.mark.parametrize(("name", "row"), CASES)
def test_what_it_says_is_visible_is_visible(
    name: str, row: Row, native: int | None, chunked: bool
) -> None:
    """The report on what a model could see, against the mask of the definition."""
    layer = LayerSpec(0, None, native, key_heads=2, chunked=chunked)
    size = native if native is not None and chunked else COUNT  # a chunk is a text of its own
    zeros, names = torch.zeros(2, size, 1), torch.eye(size).expand(2, -1, -1)
    seen = (
        (row.certain or row.reference)
        .attention(zeros, zeros, names, lambda x, positions: x, scale=1.0, native=native)
        .amax(0)
    )
    for position in range(COUNT):
        spans = visible_spans(built(name, row), layer, position)
        said = {at for start, stop in spans for at in range(start, stop)}
        begin = position - position % size
        expected = seen[position - begin].nonzero()[:, 0] + begin
        assert said == set(expected.tolist()), position


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("model", ["llama", "gemma3_text", "llama4_text"])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_a_state_keeps_no_more_than_it_said(name: str, row: Row, model: str, chunk: int) -> None:
    """And a fork, or a state that was saved and restored, goes on as the state itself does.

    At this length, the finished blocks of inf-llm have just been given more memory.
    """
    method, ids = built(name, row), random_ids(68)
    with CausalLM(tiny_model(model)) as lm, precisely(lm.model):
        engine = Engine(lm, method, chunk)
        state = engine.start()
        list(engine.read(state, [ids[:61]]))
        most = bound(method, engine.layers, chunk)
        assert most is None or state.cached_tokens <= most
        for layer, cache in zip(engine.layers, state.caches, strict=True):
            tokens = layer_capacity(method, layer, chunk, 1.5 * 61)
            assert cache.nbytes <= tokens * 2 * layer.key_heads * lm.head_size * 8
        restored = engine.start()
        restored.restore(state.save(), lm.layer_devices())
        passes = [
            torch.cat([event.hidden for event in engine.read(each, [ids[61:]])])
            for each in (state.fork(), restored, state)
        ]
    for other in passes[:2]:
        torch.testing.assert_close(other, passes[2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize(("name", "row"), CASES)
@pytest.mark.usefixtures("c_library")
def test_in_c_it_is_as_near_to_the_truth_as_in_torch(
    built_library: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: Row, chunk: int
) -> None:
    """In bfloat16, by our own decoder; all attention is in C then, over chunks and one by one."""
    method, ids = built(name, row), random_ids(60)
    model = tiny_model("llama", torch.bfloat16, **LARGE)
    in_c: list[bool] = []
    can = attention.can

    def noted(*arguments: Any) -> bool:
        in_c.append(can(*arguments))
        return in_c[-1]

    def logits(dtype: torch.dtype) -> Tensor:
        shape = plain_shape(model.config)
        assert shape is not None
        weights = {at: tensor.to(dtype) for at, tensor in model.state_dict().items()}
        engine = Engine(Decoder(shape, weights), method, chunk)
        events = engine.read(engine.start(), [ids])
        return engine.model.logits(torch.cat([event.hidden for event in events])).double()

    monkeypatch.setattr(attention, "can", noted)
    found = logits(torch.bfloat16)
    assert all(in_c) and (in_c or chunk == 1)
    library.use(None)
    usual, truth = logits(torch.bfloat16), logits(torch.float64)
    library.use(built_library)
    assert (found - truth).abs().mean() <= 2 * (usual - truth).abs().mean()
    assert (found - truth).abs().max() <= 2 * (usual - truth).abs().max()
