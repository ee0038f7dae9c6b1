"""The plan is a pure function, and what it foretells is what a reading takes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from chat_model import TRAINED_LENGTH
from reading_helpers import Settings

from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.methods.base import named_parameters
from lmi_cli.models.load import Loaded
from lmi_cli.models.speeds import setting_of
from lmi_cli.sources import Corpus
from lmi_cli.sources.blocks import text_corpus
from lmi_cli.tasks.plan import (
    NO_MEMORY,
    MemoryChoice,
    document_limit,
    plan_long_text,
    plan_reading,
    plan_scoring,
)

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
BOTH = Settings(memory=MemoryChoice(store=True))
EIGHT_BITS = Settings(memory=MemoryChoice(store=True, int8=True))
INDEX = Settings(memory=MemoryChoice())
PLAIN = Settings(memory=NO_MEMORY)


@pytest.mark.parametrize("settings", [PLAIN, INDEX, BOTH, EIGHT_BITS])
@pytest.mark.parametrize("text", [TEXT[:500], TEXT])
def test_a_reading_takes_what_was_foretold(model: Loaded, settings: Settings, text: str) -> None:
    tokens = len(model.tokenizer.encode(text))
    plan = plan_reading(model.known, settings.request(model), tokens, ["Why?"])
    reading = settings.read(model, text_corpus(text), ["Why?"])
    forgotten = {"cache_bytes": None, "store_bytes": None, "prefill_s": None}
    assert replace(reading.plan, **forgotten) == replace(plan, **forgotten)
    assert plan.weights_bytes == model.lm.weights_bytes
    assert reading.state.nbytes <= plan.cache_bytes <= 2 * reading.state.nbytes
    assert plan.bound_tokens >= reading.state.cached_tokens
    kept = sum(t.nbytes for store in reading.stores.values() for t in store.save()[1].values())
    kept += 0 if reading.means is None else reading.means.nbytes
    # The first tokens are in no store.
    assert 0 <= plan.store_bytes - kept <= plan.store_bytes * 20 / tokens
    assert (plan.store_bytes == 0) == (not reading.stores)


def test_the_border_is_where_question_and_answer_still_fit(model: Loaded) -> None:
    request = INDEX.but(max_new_tokens=40).request(model)
    prompt = request.prompts.whole()
    for question in ("Why?", "Why is it so? " * 3):
        limit = document_limit(model.known, request, ["So?", question])
        around = len(prompt.prefix) + len(prompt.tail(question)) + 40
        assert limit + around == TRAINED_LENGTH
        fits = [plan_reading(model.known, request, n, [question]).fits for n in (limit, limit + 1)]
        assert fits == [True, False]
    # A part is left to questions that are not known yet, however short the known ones are.
    short = INDEX.but(max_new_tokens=1).request(model)
    assert document_limit(model.known, short) == TRAINED_LENGTH - len(prompt.prefix) - 16


def test_an_unknown_length_is_a_stream(model: Loaded) -> None:
    plan = plan_reading(model.known, INDEX.request(model), None)
    assert (plan.fits, plan.form, plan.longest, plan.store_bytes) == (False, "stream", None, None)
    assert plan.cache_bytes is not None
    full = INDEX.but(choice=MethodChoice("full")).request(model)
    assert plan_reading(model.known, full, None).cache_bytes is None


def test_heads_decide_what_is_kept(loaded: Loaded, model: Loaded) -> None:
    request = INDEX.request(loaded)
    none = replace(loaded.known, heads=RetrievalHeads((), 32))
    for known, expected in (
        (loaded.known, (True, False)),
        (model.known, (False, True)),
        (none, (False, False)),
    ):
        plan = plan_reading(known, request, 10_000)
        assert (plan.needs_heads, plan.index) == expected
        assert plan.embeddings and plan.searching is None and plan.depth is None
    short = plan_reading(loaded.known, request, 10)
    assert (short.needs_heads, short.index, short.searching) == (False, False, None)


def test_a_speed_is_that_of_the_same_method_and_precision(model: Loaded) -> None:
    plan = plan_reading(model.known, INDEX.request(model), 1000)
    assert plan.prefill_s is None
    setting = setting_of("read", "float32", named_parameters(plan.method))
    known = replace(model.known, speeds={setting: 100.0})
    assert plan_reading(known, INDEX.request(model), 1000).prefill_s == pytest.approx(10.0)
    assert plan_scoring(known, MethodChoice(), 1000).prefill_s is None
    narrow = INDEX.but(choice=MethodChoice(given={"window": 9})).request(model)
    assert plan_reading(known, narrow, 1000, []).prefill_s is None


def test_scoring_has_the_trained_length_for_its_window(model: Loaded) -> None:
    for tokens, fits in ((TRAINED_LENGTH, True), (TRAINED_LENGTH + 1, False), (None, False)):
        plan = plan_scoring(model.known, MethodChoice(), tokens)
        assert (plan.fits, plan.method.local_window) == (fits, TRAINED_LENGTH)
    assert plan_long_text(model.known, MethodChoice()).method.local_window == TRAINED_LENGTH // 4


def test_what_contradicts_itself_is_refused(model: Loaded) -> None:
    for given, said in (
        ({"window": 0}, "--window 0"),
        ({"window": 9, "ceiling": 8}, "below the window"),
        ({"memory_topk": 0}, "--memory-topk 0"),
    ):
        with pytest.raises(UsageError, match=said):
            MethodChoice(given=given)
    far = MethodChoice(given={"memory_distance": 500})
    with pytest.raises(UsageError, match="memory-distance 500"):
        plan_reading(model.known, BOTH.but(choice=far).request(model), None)
    with pytest.raises(UsageError, match="'guess' for --answer-from"):
        MemoryChoice("guess")
