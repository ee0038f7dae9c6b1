"""The middle memory: equal to the dense definition, and to plain LM-Infinite without it."""

from typing import Any

import pytest
import torch
from reference import Lambda, Middle, reference_logits
from tiny_models import precisely, random_ids, tiny_model
from torch import Tensor

from lmi_cli.cache import store as store_module
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.causal_lm import CausalLM

WINDOW, SINKS, CEILING = 9, 4, 21
DOCUMENT, QUESTION = 50, 14
ALL = DOCUMENT


def ours(
    name: str,
    memory: tuple[Any, ...] | None,
    *,
    chunk: int = 7,
    ask_chunk: int = 5,
    pool: BlockPool | None = None,
) -> Tensor:
    """Logits of the question behind a document that is read without memory."""
    model, ids = tiny_model(name), random_ids(DOCUMENT + QUESTION)
    with CausalLM(model) as lm, precisely(model):
        method = LMInfinite(WINDOW, SINKS, CEILING)
        engine = Engine(lm, method, chunk)
        state = engine.start()
        layers = dict.fromkeys(range(len(engine.layers)))
        store = TokenStore(layers, with_values=True, first=SINKS, pool=pool)
        state.recording = (store,)
        for _ in engine.read(state, [ids[:DOCUMENT]]):
            pass
        fork = state.fork(LMInfinite(WINDOW, SINKS, CEILING, *memory or ()), {"store": store})
        hidden = [
            engine.forward(fork, ids[at : min(at + ask_chunk, len(ids))])
            for at in range(DOCUMENT, len(ids), ask_chunk)
        ]
        assert store.tokens == DOCUMENT - SINKS
        return lm.logits(torch.cat(hidden))


def expected(name: str, middle: Middle | None) -> Tensor:
    ids = random_ids(DOCUMENT + QUESTION)
    method = Lambda(WINDOW, SINKS, CEILING, middle)
    return reference_logits(tiny_model(name), ids, method)[DOCUMENT:]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BLOCK_TOKENS", 8)


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gemma2", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("topk", [1, 3, ALL])
@pytest.mark.parametrize("from_layer", [0, 1])
def test_equals_the_definition(name: str, topk: int, from_layer: int) -> None:
    want = expected(name, Middle(DOCUMENT, topk, from_layer, 11))
    torch.testing.assert_close(ours(name, (topk, from_layer, 11)), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ask_chunk", [1, 3, QUESTION])
@pytest.mark.parametrize("chunk", [1, 8, DOCUMENT])
def test_however_it_is_cut(chunk: int, ask_chunk: int) -> None:
    want = expected("llama", Middle(DOCUMENT, 2, 0, 11))
    got = ours("llama", (2, 0, 11), chunk=chunk, ask_chunk=ask_chunk)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_the_memory_changes_something_and_no_memory_is_plain() -> None:
    plain = expected("llama", None)
    torch.testing.assert_close(ours("llama", None), plain, rtol=0, atol=1e-10)
    assert float((ours("llama", (3, 0, 11)) - plain).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", ["pruned", "clusters"])
def test_a_search_that_leaves_nothing_out_is_the_exact_one(name: str, kind: str) -> None:
    want = expected(name, Middle(DOCUMENT, 2, 0, 11))
    everything = ours(name, (2, 0, 11, kind, 100))
    torch.testing.assert_close(everything, want, rtol=0, atol=1e-10)
    assert float((ours(name, (2, 0, 11, kind, 5)) - want).abs().max()) > 1e-3


def test_a_store_in_files_gives_the_same() -> None:
    pool = BlockPool(budget_bytes=20_000)
    in_files = ours("llama", (3, 0, 11), pool=pool)
    assert pool.ram_bytes > 0
    assert pool.file_bytes > 0
    torch.testing.assert_close(in_files, ours("llama", (3, 0, 11)), rtol=0, atol=0)
