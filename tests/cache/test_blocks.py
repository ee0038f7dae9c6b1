"""Tracks that choose: blocks that are looked up, and tokens that are kept for their surprisal."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model
from torch import Tensor

from lmi_cli.attention.segment import Blocks, Lookup, Surprising
from lmi_cli.cache.blocks import BlockMemory
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.surprising import SurprisingTokens
from lmi_cli.engine import forward as forward_module
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.methods.base import Method
from lmi_cli.methods.inf_llm import InfLLM
from lmi_cli.methods.sir_llm import SirLLM
from lmi_cli.models.causal_lm import CausalLM

METHODS = [InfLLM(8, 2, 3, 2, 2, 4), SirLLM(8, 2, 6)]
COUNT = 61


@pytest.fixture
def lm() -> Iterator[CausalLM]:
    model = tiny_model("llama")
    with CausalLM(model) as lm, precisely(model):
        yield lm


def hidden_states(engine: Engine, ids: Ids, *, pool: BlockPool | None = None) -> Tensor:
    events = engine.read(engine.start(pool=pool), [ids])
    return torch.cat([event.hidden.clone() for event in events])


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("call", range(1, 19, 2))
def test_a_pass_that_failed_leaves_nothing_behind(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch, method: Method, call: int
) -> None:
    ids = random_ids(COUNT)
    whole = hidden_states(Engine(lm, method, 16), ids)
    original, calls = forward_module.attend, 0

    def attend(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise MemoryError
        return original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(forward_module, "attend", attend)
    engine = Engine(lm, method, 16)
    torch.testing.assert_close(hidden_states(engine, ids), whole, rtol=0, atol=1e-10)
    assert calls > call and engine.chunk < 16


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("at", [0, 1, 17, 24, 40])
def test_forks_go_their_own_ways(lm: CausalLM, method: Method, at: int) -> None:
    """Each as if it had read everything alone, however long the other has gone on."""
    engine = Engine(lm, method, 7)
    begin, one, two = (random_ids(n, seed) for n, seed in ((at, 0), (40, 1), (40, 2)))
    state = engine.start()
    list(engine.read(state, [begin]))
    forks = [state.fork(), state.fork(), state]
    found = [
        [event.hidden for event in engine.read(fork, [rest])]
        for fork, rest in zip(forks, (one, two, one), strict=True)
    ]
    for parts, rest in zip(found, (one, two, one), strict=True):
        alone = hidden_states(Engine(lm, method, 64), np.concatenate((begin, rest)))
        torch.testing.assert_close(torch.cat(parts), alone[at:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_has_been_read_cannot_be_taken_back(lm: CausalLM, method: Method) -> None:
    engine = Engine(lm, method, 16)
    state = engine.start()
    list(engine.read(state, [random_ids(20)]))
    state.rewind(20)
    with pytest.raises(RuntimeError, match="cannot forget what it has read"):
        state.rewind(19)


def test_blocks_may_lie_in_files(lm: CausalLM, tmp_path: Path) -> None:
    engine, ids, pool = Engine(lm, METHODS[0], 16), random_ids(COUNT), BlockPool(500, tmp_path)
    in_files = hidden_states(engine, ids, pool=pool)
    assert pool.file_bytes > pool.ram_bytes > 0
    torch.testing.assert_close(in_files, hidden_states(engine, ids), rtol=0, atol=0)


def test_a_memory_of_blocks_is_restored_or_refused() -> None:
    retention = Blocks(first=1, window=4, block=3, representatives=2, pass_tokens=4)
    memory, lookup = BlockMemory(retention, 4, BlockPool()), Lookup(1, 4)
    key = torch.randn(1, 2, 24, 8, generator=torch.Generator().manual_seed(0))
    for start in range(0, 24, 4):
        part = key[:, :, start : start + 4]
        memory.append(part, part, start)
        list(memory.look_up(part, start, lookup))
        memory.notice(part.square().sum(-1), start)
    saved = memory.save()
    assert saved["representatives"].shape[2] == retention.finished(23) == 5
    other = BlockMemory(retention, 4, BlockPool())
    other.restore(saved, 24)
    for name, tensor in other.save().items():
        assert torch.equal(tensor, saved[name]), name
    for name, tensor in saved.items():
        if tensor.dim() == 4 and name != "queries":
            with pytest.raises(ValueError, match="blocks at position"):
                wrong = tensor[:, :, 1:] if name != "chosen" else tensor + 5
                BlockMemory(retention, 4, BlockPool()).restore(saved | {name: wrong}, 24)
    twice = torch.zeros(1, 1, 2, 1, dtype=torch.int64)
    for changed, position in ((saved, 25), (saved | {"chosen": twice}, 24)):
        with pytest.raises(ValueError, match="blocks at position"):
            BlockMemory(retention, 4, BlockPool()).restore(changed, position)


def test_the_most_attended_keys_stand_for_a_block() -> None:
    memory = BlockMemory(Blocks(0, 1, 4, 2, 4), 4, BlockPool())
    key = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 8).contiguous()
    memory.append(key, key, 0)
    memory.notice(torch.tensor([[[0.1, 0.7, 0.2, 0.6]]]), 0)
    memory.append(key, key, 4)
    assert memory.save()["representatives"].flatten().tolist() == [2.0] * 8  # of keys 1 and 3


def test_surprising_tokens_are_restored_or_refused() -> None:
    retention = Surprising(sinks=1, tokens=2, recent=3, block=4)
    track = SurprisingTokens(retention)
    key = torch.randn(1, 2, 20, 8, generator=torch.Generator().manual_seed(0))
    for start in range(0, 20, 4):
        track.append(key[:, :, start : start + 4], key[:, :, start : start + 4], start)
        track.weigh(torch.arange(start, start + 4).float() % 7, start)
    saved = track.save()
    # At 16, the best of 1 to 12 were chosen; 6 alone has 6 nats, of 5 and 12 the earlier is kept.
    assert saved["place"].flatten().tolist() == [0, 5, 6, 13, 14, 15, 16, 17, 18, 19]
    assert torch.equal(saved["key"], key[:, :, saved["place"].flatten()])
    other = SurprisingTokens(retention)
    other.restore(saved, 20)
    for name, tensor in other.save().items():
        assert torch.equal(tensor, saved[name]), name
    for name, tensor in saved.items():
        if tensor.dim() == 4:
            with pytest.raises(ValueError, match="tokens, the last at"):
                SurprisingTokens(retention).restore(saved | {name: tensor[:, :, 1:]}, 20)
    with pytest.raises(ValueError, match="tokens, the last at"):
        SurprisingTokens(retention).restore(saved, 21)
