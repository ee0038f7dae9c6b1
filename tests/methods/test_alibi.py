"""Every method with scores that fall with distance (ALiBi), and with learned sinks.

Layers are given random queries, keys and values, so that nothing depends on a family of models.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from method_references import Mixed
from reference import Lambda, Middle, Reference, turning
from selective_references import Surprise
from tiny_models import tiny_model
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import Rotary
from lmi_cli.cache import store as store_module
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.engine.tally import Tally
from lmi_cli.errors import ModelError
from lmi_cli.methods import LMInfinite, Method, MethodChoice
from lmi_cli.models.causal_lm import CausalLM

from .test_every_method import CASES, COUNT, ROWS, Row, built

CASES = [case for case in CASES if not case.values[1].plain_only]
FREQUENCIES = 1.0 / 20.0 ** (torch.arange(0, 8, 2) / 8)
NATIVE = (None, 12)
MEASURED = "torch, since the attention that keys get is measured"


@dataclass(frozen=True)
class Kind:
    """Layers of some heads, with what their scores depend on."""

    heads: int
    key_heads: int
    rotary: bool = False
    falls: bool = True
    sinks: bool = False

    @property
    def slopes(self) -> tuple[float, ...] | None:
        slopes = tuple(2 ** (-8 * (head + 1) / self.heads) for head in range(self.heads))
        return slopes if self.falls else None

    @property
    def layers(self) -> list[LayerSpec]:
        rotary = Rotary(FREQUENCIES.float()) if self.rotary else None
        return [
            LayerSpec(index, rotary, native, self.key_heads, self.slopes)
            for index, native in enumerate(NATIVE)
        ]

    def qkv(self, size: int = 8, dtype: torch.dtype = torch.float64) -> list[QKV]:
        """Of each layer, for ``COUNT`` tokens."""
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        return [
            QKV(
                random(1, self.heads, COUNT, size),
                random(1, self.key_heads, COUNT, size),
                random(1, self.key_heads, COUNT, size),
                scale=2 / size**0.5 if size == 64 else 0.7,
                sinks=2 * random(self.heads) if self.sinks else None,
            )
            for _ in NATIVE
        ]


KINDS = {
    "falling": Kind(6, 2),
    "sinks": Kind(6, 2, rotary=True, falls=False, sinks=True),
    "all": Kind(5, 5, rotary=True, sinks=True),
}
SURPRISAL = torch.rand(COUNT, generator=torch.Generator().manual_seed(1))
SURPRISAL[0] = math.inf


def part(qkv: QKV, at: int, stop: int) -> QKV:
    query, key, value = (x[:, :, at:stop] for x in (qkv.query, qkv.key, qkv.value))
    return qkv._replace(query=query, key=key, value=value)


def read(
    state: StreamState, layers: list[LayerSpec], given: list[QKV], chunk: int, tally: Tally
) -> Tensor:
    """Attention ``[layers, H, n, D]`` of all tokens behind those that the state has read."""
    outputs, whole = [], state.method.pass_tokens or chunk
    while (at := state.tokens) < (stop := given[0].query.shape[2]):
        stop = min(at + chunk, at + whole - at % whole, stop)
        state.begin_pass()
        attention = ForwardPass(state, layers, stop - at, tally=tally)
        outputs.append(
            torch.cat([attention.attend(n, part(each, at, stop)) for n, each in enumerate(given)])
        )
        if state.method.weighs_tokens:
            state.weigh(SURPRISAL[at:stop])
        state.end_pass(stop - at)
    return torch.cat(outputs, 2)


def ours(
    method: Method, kind: Kind, given: list[QKV], chunk: int, *, origin: int = 0
) -> tuple[Tensor, Tally]:
    """Attention ``[layers, H, n, D]``, and what computed it."""
    tally, layers = Tally(), kind.layers
    state = StreamState(method, layers, chunk, origin=origin)
    return read(state, layers, given, chunk, tally), tally


def dense(reference: Reference, kind: Kind, given: list[QKV]) -> Tensor:
    """The same by one matrix of scores for each layer and head, in float64."""
    if isinstance(reference, Surprise):
        reference = reference.of(SURPRISAL.tolist())
    turn = turning(FREQUENCIES.float() if kind.rotary else None, False)
    slopes = None if kind.slopes is None else torch.tensor(kind.slopes, dtype=torch.float64)
    folds, outputs = kind.heads // kind.key_heads, []
    for layer, (qkv, native) in enumerate(zip(given, NATIVE, strict=True)):
        query, key, value = (x[0].double() for x in (qkv.query, qkv.key, qkv.value))
        outputs.append(
            reference.attention(
                query,
                key.repeat_interleave(folds, 0),
                value.repeat_interleave(folds, 0),
                turn,
                scale=qkv.scale,
                native=native,
                layer=layer,
                folds=folds,
                slopes=slopes,
                sinks=None if qkv.sinks is None else qkv.sinks.double(),
            )
        )
    return torch.stack(outputs)


@cache
def expected(name: str, number: int, kind: str) -> Tensor:
    return dense(ROWS[name][number].reference, KINDS[kind], KINDS[kind].qkv())


@pytest.mark.parametrize("chunk", [1, 7, COUNT])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "row"), CASES)
def test_it_is_what_its_definition_says(name: str, row: Row, kind: str, chunk: int) -> None:
    found, _ = ours(built(name, row), KINDS[kind], KINDS[kind].qkv(), chunk)
    want = expected(name, ROWS[name].index(row), kind)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["falling", "sinks"])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_it_is_not_what_it_would_be_without(name: str, row: Row, kind: str) -> None:
    without = replace(KINDS[kind], falls=False, sinks=False)
    found, _ = ours(built(name, row), without, without.qkv(), 7)
    assert (found - expected(name, ROWS[name].index(row), kind)).abs().max() > 0.1


@pytest.mark.parametrize("origin", [10**6, 200_000_001, 2**40])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_it_is_the_same_wherever_a_stream_begins(name: str, row: Row, origin: int) -> None:
    """To the last bit: distances are whole numbers, and only they count."""
    method, kind = built(name, row), KINDS["falling"]
    given = kind.qkv(dtype=torch.float32)
    near, _ = ours(method, kind, given, 7)
    far, _ = ours(method, kind, given, 7, origin=origin)
    assert torch.equal(near, far)


@pytest.mark.parametrize("search", [None, "pruned"])
@pytest.mark.parametrize("reference", [Lambda, Mixed], ids=["all heads", "some heads"])
def test_the_middle_is_searched(
    monkeypatch: pytest.MonkeyPatch, reference: Any, search: str | None
) -> None:
    """At one distance, by all heads, or by those that do not see everything anyway."""
    monkeypatch.setattr(store_module, "BLOCK_TOKENS", 8)
    kind, document = replace(KINDS["falling"], sinks=True), 28
    given, layers, tally = kind.qkv(), kind.layers, Tally()
    some = {"dense_heads": "calibrated", "dense_key_heads": "0.1"} if reference is Mixed else {}
    plain = LMInfinite(9, 4, 21, **some)
    state = StreamState(plain, layers, 7)
    store = TokenStore(dict.fromkeys(range(2)), with_values=True, first=4)
    state.recording = (store,)
    read(state, layers, [part(each, 0, document) for each in given], 7, tally)
    asked = replace(plain, memory_topk=3, memory_from_layer=0, memory_distance=11)
    if search is not None:
        asked = replace(asked, memory_search=search, memory_percent=100)
    found = read(state.fork(asked, {"store": store}), layers, given, 5, tally)
    heads = {"heads": ((0, 1),)} if reference is Mixed else {}
    want = dense(reference(9, 4, 21, Middle(document, 3, 0, 11), **heads), kind, given)
    torch.testing.assert_close(found, want[:, :, document:], rtol=0, atol=1e-10)
    assert tally.attention["torch, since a store is searched"] > 0


@pytest.mark.parametrize("chunk", [7, COUNT])
@pytest.mark.parametrize(("name", "row"), CASES)
@pytest.mark.usefixtures("c_library")
def test_in_c_it_is_as_near_to_the_truth_as_bfloat16_can_be(
    name: str, row: Row, chunk: int
) -> None:
    """Weights are rounded once; outputs once more, and again where parts of them are merged."""
    kind = Kind(6, 2, sinks=True)
    given = kind.qkv(64, torch.bfloat16)
    found, tally = ours(built(name, row), kind, given, chunk)
    assert tally.attention["C"] > 0
    assert tally.attention.keys() <= {"C", MEASURED}
    want = dense(row.reference, kind, given)
    largest = max(float(each.value.abs().max()) for each in given)
    torch.testing.assert_close(found.double(), want, rtol=0, atol=2**-6 * largest)


def test_frequencies_that_are_not_there_are_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CausalLM, "layers", lambda *_: KINDS["falling"].layers)
    method = MethodChoice("full", {"rope_scaling": "linear", "rope_factor": 4}).build(64, 0)
    with (
        CausalLM(tiny_model("llama")) as lm,
        pytest.raises(ModelError, match="llama model has no rotary frequencies, so --rope-scaling"),
    ):
        Engine(lm, method)


def test_scores_are_not_both_capped_and_lowered() -> None:
    kind = KINDS["falling"]
    given = [each._replace(softcap=5.0) for each in kind.qkv()]
    with pytest.raises(ValueError, match="capped"):
        ours(LMInfinite(9, 4, 21), kind, given, 7)


def test_a_few_tokens_are_not_taken_through_all_layers_in_c() -> None:
    kind = KINDS["falling"]
    state, tally = StreamState(LMInfinite(9, 4, 21), kind.layers, 7), Tally()
    read(state, kind.layers, [part(each, 0, 12) for each in kind.qkv()], 7, tally)
    assert ForwardPass(state, kind.layers, 1, tally=tally).views(1.0, torch.float32, 4) is None
    assert list(tally.refused) == ["scores fall with distance (ALiBi)"]
