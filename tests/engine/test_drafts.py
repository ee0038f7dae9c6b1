"""Drafts change how many tokens come of a pass, and no token."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_ids, tiny_model
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine.batch import Contrast, decode_batch
from lmi_cli.engine.drafts import DRAFTED_COST, MOST_DRAFTED, MOST_LOST, Drafter, Drafts, Places
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods import Full, LMInfinite, Method
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.families import plain_shape
from lmi_cli.native import library

LIMIT = 40
LARGE = {"hidden_size": 96, "head_dim": 64, "intermediate_size": 160, "num_attention_heads": 6}
NOTHING = np.empty(0, dtype=np.int32)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_what_follows_a_passage_is_drafted() -> None:
    document = np.arange(100, dtype=np.int32)
    drafter = Drafter(Places(document), ids(7, 40, 41))
    assert drafter.draft(7) == [42, 43], "no longer than the match"
    drafter.take([42, 43, 44], 2)
    assert drafter.draft(7) == [45, 46, 47, 48, 49]
    drafter.take([45, 46, 47, 48, 49, 50], 5)
    assert drafter.draft(99) == list(range(51, 51 + MOST_DRAFTED))
    assert drafter.draft(3) == [51, 52, 53]
    assert drafter.draft(0) == []


def test_the_answer_itself_is_a_text() -> None:
    drafter = Drafter(Places(NOTHING), ids(1, 2, 3))
    assert drafter.draft(7) == []
    drafter.take([9], 0)
    drafter.take([2], 0)
    drafter.take([3], 0)
    assert drafter.draft(7) == [9, 2]


def test_the_most_frequent_continuation_is_drafted_and_of_several_the_last() -> None:
    text = ids(1, 2, 5, 0, 1, 2, 6, 0, 1, 2, 6, 0, 1, 2, 5, 7)
    assert Drafter(Places(text), ids(1, 2)).draft(1) == [5]
    assert Drafter(Places(text[:-5]), ids(1, 2)).draft(1) == [6]


def test_a_draft_ends_where_it_gets_unlikely() -> None:
    text = np.concatenate([ids(1, 2, 3, other, 1, 2, 3, other) for other in range(10, 30)])
    assert Drafter(Places(text), ids(0, 1)).draft(7) == []
    assert Drafter(Places(text), ids(0, 1, 2)).draft(7) == [3]


def test_after_wrong_drafts_a_match_has_to_be_longer() -> None:
    document = np.arange(200, dtype=np.int32)
    drafter = Drafter(Places(document), ids(20, 21))
    passes = drafts = 0
    for start in range(30, 190, 4):  # pieces of two tokens, behind which the text is left
        drafted = drafter.draft(7)
        passes, drafts = passes + 1, drafts + bool(drafted)
        drafter.take([start], len(drafted))
        drafter.take([start + 1], 0)
    assert passes == 40 and drafts < 5
    for token in range(100, 148):
        drafter.take([token], 0)
    assert len(drafter.draft(7)) == 7, "but a long one is enough again"


@settings(max_examples=100)
@given(
    text=st.lists(st.integers(0, 3), min_size=20, max_size=60),
    answer=st.lists(st.integers(0, 3), min_size=1, max_size=300),
)
def test_drafts_never_cost_much_more_than_they_save(text: list[int], answer: list[int]) -> None:
    """The answer is made of few tokens, so that there is always something to draft, often wrong."""
    drafter = Drafter(Places(ids(*text)), ids(0))
    at = drafted = 0
    while at < len(answer):
        draft = drafter.draft(min(7, len(answer) - at - 1))
        right = 0
        while right < len(draft) and draft[right] == answer[at + right]:
            right += 1
        drafter.take(answer[at : at + right + 1], len(draft))
        at, drafted = at + right + 1, drafted + len(draft)
        saved = len(answer[:at]) - drafter.passes
        start, share = MOST_LOST
        assert DRAFTED_COST * drafted - saved <= start + share * drafter.passes


@pytest.mark.parametrize("text", [ids(), ids(3), ids(1, 2, 1, 1, 4, 1)], ids=len)
def test_places_are_the_same_however_they_are_found(text: np.ndarray) -> None:
    places = Places(text)
    for _ in range(200):
        for token in range(6):
            assert places.of(token).tolist() == np.flatnonzero(text[:-1] == token).tolist()
    assert places.is_sorted


@settings(max_examples=100)
@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    before=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    more=st.lists(st.integers(0, 3), max_size=15),
)
def test_matches_are_the_longest(text: list[int], before: list[int], more: list[int]) -> None:
    drafter = Drafter(Places(ids(*text)), ids(*before))
    document, own = drafter._texts
    whole = list(before)
    for token in [*more, None]:
        drafter._unsearched = 99
        drafter._needed = 2
        drafter.draft(7)
        for found, tokens in ((document, text), (own, whole)):
            # Behind each place, how many of the tokens before it are those before the next one.
            matches = Counter[int]()
            for end in range(1, len(tokens)):
                while matches[end] < min(end, len(whole)) and (
                    tokens[end - matches[end] - 1] == whole[-matches[end] - 1]
                ):
                    matches[end] += 1
            assert found.match == max(matches.values(), default=0)
            best = [end for end, match in matches.items() if match == found.match > 0]
            assert found._ends.tolist() == sorted(best)
        if token is not None:
            drafter.take([token], 0)
            whole.append(token)


class Guesser(Drafter):
    """Knows the answer, and makes mistakes at random."""

    def __init__(self, answer: list[int], seed: int) -> None:
        super().__init__(Places(NOTHING), NOTHING)
        self._known = answer
        self._random = np.random.default_rng(seed)

    def draft(self, most: int) -> list[int]:
        begun = len(self.answer)
        count = min(int(self._random.integers(0, MOST_DRAFTED + 1)), most)
        drafted = self._known[begun : begun + count]
        if drafted and self._random.random() < 0.7:
            drafted[int(self._random.integers(len(drafted)))] = 5
        return drafted


def answers(
    lm: LanguageModel,
    method: Method,
    lengths: list[int],
    sampling: Sampling,
    drafters: list[Drafter] | None = None,
    *,
    weight: float | None = None,
    chunk: int = 8,
) -> tuple[list[list[int]], list[StreamState], list[Tensor]]:
    """The answers behind prompts of some lengths, and the states after them."""
    engine = Engine(lm, method, chunk)
    states, last, contrasts = [], [], list[Contrast | None]()
    for number, length in enumerate(lengths):
        for behind in range(2):
            state = engine.start()
            for event in engine.read(state, [random_ids(length, seed=2 * number + behind)]):
                newest = event.last
            if behind == 0:
                states.append(state)
                last.append(newest)
            else:
                contrasts.append(None if weight is None else Contrast(state, newest, weight))
    found: list[list[int]] = [[] for _ in lengths]
    for stream, generated in decode_batch(
        engine,
        states,
        last,
        stop_ids=frozenset(),
        limit=LIMIT,
        sampling=sampling,
        contrasts=contrasts,
        drafters=drafters,
    ):
        found[stream].append(generated.token)
    rows = [engine.forward(state, ids(3, 4, 5)) for state in states]
    return found, states, rows


METHODS = (Full(), LMInfinite(6, 2, 8), LMInfinite(30, 60, 40), LMInfinite(1, 1, 2))


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("lengths", [[20], [3, 25]])
@pytest.mark.parametrize("weight", [None, 0.5])
def test_the_same_tokens_and_states(
    method: Method, temperature: float, lengths: list[int], weight: float | None
) -> None:
    sampling = Sampling(temperature, seed=2)
    with CausalLM(tiny_model("llama", torch.float64)) as lm:
        plain, states, rows = answers(lm, method, lengths, sampling, weight=weight)
        for seed in range(3):
            guessers: list[Drafter] = [Guesser(each, seed) for each in plain]
            found, others, after = answers(lm, method, lengths, sampling, guessers, weight=weight)
            assert found == plain
            for state, other in zip(states, others, strict=True):
                assert state.position == other.position
            torch.testing.assert_close(after, rows, rtol=0, atol=1e-12)
            assert max(len(p) / g.passes for p, g in zip(plain, guessers, strict=True)) > 1


@pytest.mark.parametrize("pairs", [8, 9])
def test_where_newest_tokens_fill_a_pass_nothing_is_drafted(pairs: int) -> None:
    with CausalLM(tiny_model("llama", torch.float64)) as lm:
        plain, _, _ = answers(lm, Full(), [9] * pairs, Sampling(), weight=0.5)
        guessers: list[Drafter] = [Guesser(each, 1) for each in plain]
        found, _, _ = answers(lm, Full(), [9] * pairs, Sampling(), guessers, weight=0.5)
    assert found == plain
    assert all(guesser.passes in (0, LIMIT) for guesser in guessers)


@pytest.mark.usefixtures("c_library")
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("lengths", [[20], [3, 25]])
@pytest.mark.parametrize("weight", [None, 0.5])
def test_in_bfloat16_to_the_last_bit(
    name: str, method: Method, lengths: list[int], weight: float | None
) -> None:
    model = tiny_model(name, torch.bfloat16, **LARGE)
    shape = plain_shape(model.config)
    assert shape is not None
    lm = Decoder(shape, dict(model.state_dict()))
    assert lm.alike_rows == (8 if library.uses_tiles() else 16)
    plain, _, rows = answers(lm, method, lengths, Sampling(), weight=weight, chunk=20)
    for seed in range(3):
        guessers: list[Drafter] = [Guesser(each, seed) for each in plain]
        found, _, after = answers(
            lm, method, lengths, Sampling(), guessers, weight=weight, chunk=20
        )
        assert found == plain
        assert all(map(torch.equal, after, rows))
        assert max(len(p) / g.passes for p, g in zip(plain, guessers, strict=True)) > 1


def test_when_drafts_are_made() -> None:
    class Model:
        is_recurrent = False

        def __init__(self, rows: int) -> None:
            self.alike_rows = rows

    def drafts(rows: int, speculate: str) -> bool:
        model: LanguageModel = Model(rows)  # type: ignore[assignment]
        return Drafts(model, speculate, NOTHING).of([NOTHING]) is not None

    assert drafts(16, "auto") and drafts(16, "suffix") and drafts(1, "suffix")
    assert not (drafts(1, "auto") or drafts(16, "none") or drafts(1, "none"))


def test_earlier_answers_are_a_text() -> None:
    class Model:
        alike_rows, is_recurrent = 16, False

    drafts = Drafts(Model(), "auto", NOTHING)  # type: ignore[arg-type]
    first = drafts.of([ids(1)])
    assert first is not None and first[0].draft(7) == []
    for token in (50, 51, 52, 53):
        first[0].take([token], 0)
    drafts.keep(first)
    second = drafts.of([ids(50, 51)])
    assert second is not None and second[0].draft(7) == [52, 53]
    assert drafts.passes == 4
