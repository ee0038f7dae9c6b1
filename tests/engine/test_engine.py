"""Read, score and decode."""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import precisely, random_ids, stock_logits, tiny_model
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import Engine, Ids, loops, rechunk
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.engine.language_model import Losses
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.methods.sir_llm import SirLLM
from lmi_cli.models.causal_lm import CausalLM

GREEDY = Sampling()
LAMBDA = LMInfinite(9, 4, 12)


@pytest.fixture
def lm() -> Iterator[CausalLM]:
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        yield lm


class Script:
    """A language model without attention, which answers token t with ``follow[t]``."""

    trained_length = 1000
    vocab_size = 100

    def __init__(self, follow: Iterable[int]) -> None:
        self.follow = torch.tensor(list(follow))

    def layers(self, horizon: int) -> list[LayerSpec]:
        return []

    def hidden(self, ids: Tensor, forward: ForwardPass, depth: int | None = None) -> Tensor:
        return self.follow[ids][..., None].float()

    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        for part in hidden.split(rows):
            yield torch.nn.functional.one_hot(part[:, 0].long(), self.vocab_size).float()


def answer(follow: Iterable[int], limit: int, stop: Iterable[int] = ()) -> tuple[list[int], str]:
    """What the script says after token 0, and why it ends."""
    engine = Engine(Script(follow), Full())
    state = engine.start()
    last = engine.forward(state, np.array([0], np.int32))[-1]
    events = list(
        engine.decode(state, last, stop_ids=frozenset(stop), limit=limit, sampling=GREEDY)
    )
    assert all(event.finish_reason is None for event in events[:-1])
    assert state.tokens == len(events)  # the last one is not taken up
    return [event.token for event in events], events[-1].finish_reason


@settings(max_examples=60, derandomize=True)
@given(sizes=st.lists(st.integers(0, 30)), chunk=st.integers(1, 12))
def test_rechunk(sizes: list[int], chunk: int) -> None:
    numbers = np.arange(sum(sizes), dtype=np.int32)
    cut = list(rechunk(iter(np.split(numbers, np.cumsum(sizes))), chunk))
    assert [token for block in cut for token in block] == numbers.tolist()
    assert all(len(block) == chunk for block in cut[:-1])
    assert all(0 < len(block) <= chunk for block in cut[-1:])


def test_rechunk_does_not_wait_for_more_than_it_needs() -> None:
    def blocks() -> Iterator[Ids]:
        yield np.arange(5, dtype=np.int32)
        pytest.fail("asked for a second block")

    assert next(rechunk(blocks(), 4)).tolist() == [0, 1, 2, 3]


class TestDecode:
    def test_ends_with_a_stop_token(self) -> None:
        assert answer(range(1, 100), 50, stop=[3, 7]) == ([1, 2, 3], "stop")

    def test_ends_at_the_limit(self) -> None:
        assert answer(range(1, 100), 4) == ([1, 2, 3, 4], "length")

    def test_a_stop_token_at_the_limit_is_a_stop(self) -> None:
        assert answer(range(1, 100), 3, stop=[3]) == ([1, 2, 3], "stop")

    @pytest.mark.parametrize("period", [1, 3, 16, 17, 24])
    def test_ends_in_a_loop(self, period: int) -> None:
        follow = [1 + token % period for token in range(period + 1)]
        tokens, reason = answer(follow, 500)
        assert (len(tokens), reason) == (max(64, 4 * period), "loop")

    @pytest.mark.parametrize("method", [Full(), LAMBDA], ids=str)
    def test_greedy_equals_reading_its_own_answer(self, lm: CausalLM, method: object) -> None:
        prompt = random_ids(20)
        engine = Engine(lm, method, 8)
        state = engine.start()
        *_, read = engine.read(state, [prompt])
        events = engine.decode(state, read.last, stop_ids=frozenset(), limit=30, sampling=GREEDY)
        tokens = [event.token for event in events]
        again = engine.start()
        whole = np.concatenate((prompt, np.array(tokens[:-1], np.int32)))
        hidden = torch.cat([engine.forward(again, ids) for ids in rechunk([whole], 8)])
        assert lm.logits(hidden[19:]).argmax(-1).tolist() == tokens

    def test_greedy_equals_stock(self) -> None:
        """Token for token against plain recomputation of the whole text."""
        model, prompt = tiny_model("llama", torch.float32), random_ids(20)
        expected = prompt.tolist()
        for _ in range(30):
            logits = stock_logits(model, np.array(expected, np.int32))
            expected.append(int(logits[-1].argmax()))
        with CausalLM(model) as lm:
            engine = Engine(lm, LMInfinite(64, 4, 64), 8)
            state = engine.start()
            *_, read = engine.read(state, [prompt])
            events = engine.decode(
                state, read.last, stop_ids=frozenset(), limit=30, sampling=GREEDY
            )
            assert [event.token for event in events] == expected[20:]

    def test_forks_with_one_seed_say_the_same(self, lm: CausalLM) -> None:
        engine = Engine(lm, LAMBDA, 8)
        state = engine.start()
        *_, read = engine.read(state, [random_ids(50)])

        def said(seed: int, index: int) -> list[int]:
            sampling = Sampling(temperature=1.0, seed=seed)
            events = engine.decode(
                state.fork(),
                read.last,
                stop_ids=frozenset(),
                limit=30,
                sampling=sampling,
                index=index,
            )
            return [event.token for event in events]

        assert said(1, 0) == said(1, 0)
        assert len({tuple(said(seed, index)) for seed in (0, 1) for index in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([1] * 63, False),
        ([1] * 64, True),
        ([5] + [1] * 64, True),
        ([1] * 64 + [5], False),
        ([1, 2, 3] * 21 + [1], True),
        ([1, 2, 3] * 21 + [2], False),
        (list(range(64)) * 4, True),
        (list(range(65)) * 4, False),
        (list(range(40)) * 3, False),
        (list(range(40)) * 3 + list(range(39)), False),
        (list(range(100, 160)) + list(range(40)) * 3, False),
        (list(range(100, 160)) + list(range(40)) * 4, True),
        (list(range(256)), False),
    ],
)
def test_loops(tokens: list[int], expected: bool) -> None:
    assert loops(tokens) is expected


class TestScore:
    @staticmethod
    def score(lm: CausalLM, ids: Ids, chunk: int, method: object = LAMBDA) -> np.ndarray:
        engine = Engine(lm, method, chunk)
        with precisely(lm.model):
            events = list(engine.score(engine.start(), [ids]))
        assert [event.tokens for event in events][-1] == len(ids)
        assert all(event.nll.dtype == np.float32 for event in events)
        return np.concatenate([event.nll for event in events])

    @pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite"])
    @pytest.mark.parametrize("chunk", [1, 7, 50])
    def test_equals_stock_on_a_short_text(self, name: str, chunk: int) -> None:
        model, ids = tiny_model(name), random_ids(50)
        expected = -stock_logits(model, ids).log_softmax(-1)[np.arange(49), ids[1:]]
        with CausalLM(model) as lm:
            nll = self.score(lm, ids, chunk, Full())
        assert np.isnan(nll[0])
        np.testing.assert_allclose(nll[1:], expected.numpy(), rtol=1e-6)

    def test_does_not_depend_on_the_chunk(self) -> None:
        ids = random_ids(700)
        with CausalLM(tiny_model("llama")) as lm:
            sums = [
                np.nansum(self.score(lm, ids, chunk).astype(np.float64))
                for chunk in (1, 64, 256, 700)
            ]
        np.testing.assert_allclose(sums, sums[0], rtol=1e-9)

    def test_only_the_first_token_is_left_out(self, lm: CausalLM) -> None:
        nll = self.score(lm, random_ids(600), 300)
        assert np.isnan(nll[0])
        assert np.isfinite(nll[1:]).all()

    def test_a_single_token_and_none(self, lm: CausalLM) -> None:
        assert np.isnan(self.score(lm, random_ids(1), 8)).tolist() == [True]
        engine = Engine(lm, LAMBDA, 8)
        assert list(engine.score(engine.start(), [])) == []

    def test_losses_are_computed_once_where_the_method_weighs_tokens(
        self, lm: CausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, ids = self.score(lm, random_ids(12), 50, Full()), random_ids(12)
        weighed: list[int] = []
        losses = lm.losses

        def counted(hidden: Tensor, targets: Tensor, **asked: bool) -> Losses:
            weighed.append(len(targets))
            return losses(hidden, targets, **asked)

        monkeypatch.setattr(lm, "losses", counted)
        found = self.score(lm, ids, 5, SirLLM(window=16, sinks=2, surprising=3))
        assert sum(weighed) == len(ids) - 1
        # All of them are within the window.
        np.testing.assert_allclose(found, whole, atol=1e-4)


def test_the_last_tokens_take_no_longer_than_the_first(lm: CausalLM) -> None:
    """A thousand windows; the first tenth, which warms up, is left out."""
    window, times = 16, []
    engine = Engine(lm, LMInfinite(window, 4, window), 64)
    clock = time.process_time()
    for _ in engine.read(engine.start(), [random_ids(1000 * window)]):
        times.append(time.process_time() - clock)
        clock = time.process_time()
    tenth = len(times) // 10
    assert np.median(times[-tenth:]) < 2.0 * np.median(times[tenth : 2 * tenth])


class TestDamage:
    """Wrong weights and failing passes end in an error, never in an answer."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize(
        "poisoned", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"]
    )
    @pytest.mark.parametrize(
        "sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "sampled"]
    )
    def test_weights_that_are_not_finite(
        self, poisoned: str, value: float, sampling: Sampling
    ) -> None:
        model = tiny_model("llama", torch.float32)
        weight = model.get_parameter(poisoned)
        weight.data.view(-1)[-1] = value
        with CausalLM(model) as lm:
            engine = Engine(lm, LAMBDA, 8)
            with pytest.raises(ModelError, match="non-finite"):
                list(engine.score(engine.start(), [random_ids(30)]))
            # An infinite weight of the head makes a logit +inf or -inf, as the text has it.
            refused = 0
            for seed in range(8):
                state = engine.start()
                *_, read = engine.read(state, [random_ids(30, seed)])
                try:
                    events = engine.decode(
                        state, read.last, stop_ids=frozenset(), limit=3, sampling=sampling
                    )
                    assert all(event.token != 63 for event in events)
                except ModelError:
                    refused += 1
            assert refused

    def test_a_pass_that_fails_leaves_no_usable_state(
        self, lm: CausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(lm, LAMBDA, 8)
        state = engine.start()
        engine.forward(state, random_ids(8))
        attend = ForwardPass.attend

        def failing(self: ForwardPass, layer: int, qkv: QKV) -> Tensor:
            if layer == 1:
                raise MemoryError
            return attend(self, layer, qkv)

        with monkeypatch.context() as patch:
            patch.setattr(ForwardPass, "attend", failing)
            with pytest.raises(MemoryError):
                engine.forward(state, random_ids(8))
        with pytest.raises(RuntimeError, match="half-written"):
            engine.forward(state, random_ids(8))
        with pytest.raises(RuntimeError, match="half-written"):
            state.fork()
        assert isinstance(engine.start(), StreamState)

    def test_a_fork_made_before_survives(
        self, lm: CausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(lm, LAMBDA, 8)
        state = engine.start()
        engine.forward(state, random_ids(8))
        fork, expected = state.fork(), engine.forward(state.fork(), random_ids(8, 1))
        state.begin_pass()
        assert torch.equal(engine.forward(fork, random_ids(8, 1)), expected)


def test_bound_is_that_of_the_widest_layer() -> None:
    with CausalLM(tiny_model("gemma3_text")) as lm:
        assert Engine(lm, LMInfinite(40, 4, 40), 8).bound() == 4 + 39 + 8
        assert Engine(lm, LMInfinite(5, 4, 40), 8).bound() == 4 + 4 + 8
        assert Engine(lm, Full(), 8).bound() is None
