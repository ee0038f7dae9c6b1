"""Decoding several streams together gives what each of them gives alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_ids, tiny_model

from lmi_cli.cache.state import StreamState
from lmi_cli.engine.batch import PLAUSIBLE, Contrast, decode_batch
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError
from lmi_cli.methods.base import Method
from lmi_cli.methods.full import Full
from lmi_cli.methods.inf_llm import InfLLM
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.methods.sir_llm import SirLLM
from lmi_cli.models.causal_lm import CausalLM

LIMIT = 12


@pytest.fixture(scope="module")
def lm() -> CausalLM:
    return CausalLM(tiny_model("llama", torch.float64))


def alone_and_together(
    lm: CausalLM, method: Method, lengths: list[int], sampling: Sampling, stop: frozenset[int]
) -> tuple[list[list[int]], list[list[int]], list[str | None]]:
    engine = Engine(lm, method, 8)
    states, last = [], []
    for number, length in enumerate(lengths):
        states.append(engine.start())
        for event in engine.read(states[-1], [random_ids(length, seed=number)]):
            newest = event.last
        last.append(newest)
    alone = [
        [
            generated.token
            for generated in engine.decode(
                state.fork(), hidden, stop_ids=stop, limit=LIMIT, sampling=sampling, index=number
            )
        ]
        for number, (state, hidden) in enumerate(zip(states, last, strict=True))
    ]
    together: list[list[int]] = [[] for _ in lengths]
    reasons: list[str | None] = [None for _ in lengths]
    for stream, generated in decode_batch(
        engine, states, last, stop_ids=stop, limit=LIMIT, sampling=sampling
    ):
        together[stream].append(generated.token)
        reasons[stream] = generated.finish_reason
    return alone, together, reasons


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    temperature=st.sampled_from([0.0, 1.5]),
    method=st.sampled_from(
        [Full(), LMInfinite(6, 2, 8), InfLLM(6, 2, 2, 2, 2, 2), SirLLM(6, 2, 3)]
    ),
)
def test_as_alone(lm: CausalLM, lengths: list[int], temperature: float, method: Method) -> None:
    sampling = Sampling(temperature, seed=3)
    alone, together, reasons = alone_and_together(lm, method, lengths, sampling, frozenset())
    assert together == alone
    assert set(reasons) == {"length"}


def test_streams_end_at_their_own_time(lm: CausalLM) -> None:
    sampling = Sampling(2.0)
    free, _, _ = alone_and_together(lm, Full(), [5, 9, 13], sampling, frozenset())
    stop = frozenset({free[1][4]})
    alone, together, reasons = alone_and_together(lm, Full(), [5, 9, 13], sampling, stop)
    assert together == alone
    assert len(together[1]) <= 5 and reasons[1] == "stop"
    assert len({len(tokens) for tokens in together}) > 1


def test_the_caller_ends_a_stream(lm: CausalLM) -> None:
    engine = Engine(lm, Full(), 8)
    states = [engine.start() for _ in range(3)]
    last = [engine.forward(state, np.array([n], np.int32))[-1] for n, state in enumerate(states)]
    counts = [0, 0, 0]
    for stream, _ in decode_batch(
        engine,
        states,
        last,
        stop_ids=frozenset(),
        limit=9,
        sampling=Sampling(2.0),
        enough=lambda stream, tokens: len(tokens) == 2 + stream,
    ):
        counts[stream] += 1
    assert counts == [2, 3, 4]


def test_logits_that_are_not_finite(lm: CausalLM) -> None:
    engine = Engine(lm, Full(), 8)
    state = engine.start()
    last = engine.forward(state, np.array([1], np.int32))[-1]
    task = decode_batch(
        engine, [state], [last * torch.nan], stop_ids=frozenset(), limit=2, sampling=Sampling()
    )
    with pytest.raises(ModelError, match="non-finite"):
        list(task)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_a_contrast_takes_off_what_the_model_says_without_the_text(
    lm: CausalLM, weight: float
) -> None:
    """Token by token, against the formula on logits of whole sequences."""
    engine = Engine(lm, Full(), 8)
    asked = random_ids(4, seed=3)
    prompts = [np.concatenate([random_ids(9 + 4 * n, seed=n), asked]) for n in range(3)]

    def last_logits(ids: np.ndarray) -> torch.Tensor:
        (*_, event) = engine.read(engine.start(), [ids])
        return lm.logits(event.last[None])[0].log_softmax(-1)

    def begun(ids: np.ndarray) -> tuple[StreamState, torch.Tensor]:
        state = engine.start()
        (*_, event) = engine.read(state, [ids])
        return state, event.last

    want = []
    for prompt in prompts[:2]:
        said: list[int] = []
        for _ in range(5):
            new = np.array(said, dtype=np.int32)
            given = last_logits(np.concatenate([prompt, new]))
            prior = last_logits(np.concatenate([asked, new]))
            combined = (1 + weight) * given - weight * prior
            combined[given < given.max() + np.log(PLAUSIBLE)] = -torch.inf
            said.append(int(combined.argmax()))
        want.append(said)
    plain = [int(last_logits(prompts[2]).argmax())]
    states, last = zip(*map(begun, prompts), strict=True)
    contrasts = [Contrast(*begun(asked), weight) for _ in range(2)]
    found: list[list[int]] = [[], [], []]
    for stream, generated in decode_batch(
        engine,
        states,
        last,
        stop_ids=frozenset(),
        limit=5,
        sampling=Sampling(),
        contrasts=[*contrasts, None],
    ):
        found[stream].append(generated.token)
    assert found[:2] == want
    assert found[2][:1] == plain
