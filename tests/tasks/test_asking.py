"""Answers from passages, store and window: where they come from, and what is refused."""

from collections.abc import Callable

import pytest
from reading_helpers import Settings

from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Note, follow
from lmi_cli.tasks.finder import nearest_last
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
SHORT = "The grass is green. The sky is blue.\n"
BOTH = Settings(memory=MemoryChoice(store=True))
INDEX = Settings(memory=MemoryChoice())
PLAIN = Settings(memory=NO_MEMORY)


def test_a_stream_is_answered_from_passages(model: Loaded, corpus: Corpora) -> None:
    reading = BOTH.read(model, corpus(TEXT), ["Why?"])
    answer = BOTH.ask(model, reading)
    assert answer.answered_from == "passages"
    assert answer.visible.reread > 0
    assert answer.visible.reread + answer.visible.unseen == reading.document.tokens
    assert answer.visible.searched == reading.document.tokens - 10
    assert 0 < len(answer.evidence) <= 5
    scores = [item.score for item in answer.evidence]
    assert scores == sorted(scores, reverse=True)
    for item in answer.evidence:
        assert TEXT[item.start : item.end] == item.text
        lines = TEXT.splitlines()[item.line_start - 1 : item.line_end]
        assert item.text in "\n".join(lines)


def test_the_best_passage_stands_next_to_the_question() -> None:
    first, second, third, fourth = (Passage(n, 10 * n, 10 * n + 10) for n in (2, 3, 7, 9))
    assert nearest_last([third, first]) == [first, third]
    assert nearest_last([first, third]) == [third, first]
    assert nearest_last([second, fourth, first]) == [fourth, first, second]
    assert nearest_last([]) == []


def test_memory_sees_more_than_the_window_and_says_so(model: Loaded, corpus: Corpora) -> None:
    reading = BOTH.read(model, corpus(TEXT), ["Why?"])
    from_memory, from_window = (BOTH.ask(model, reading, source=s) for s in ("memory", "window"))
    assert (from_memory.answered_from, from_window.answered_from) == ("memory", "window")
    assert from_memory.visible.searched == from_window.visible.unseen > 0
    assert from_memory.visible.attended == 32
    parameters = reading.report().parameters
    assert {"memory_topk", "memory_from_layer", "memory_distance"} < set(parameters)
    assert from_window.visible.searched == from_window.visible.attended == 0
    plain = PLAIN.read(model, corpus(TEXT), ["Why?"])
    assert PLAIN.ask(model, plain).answer == from_window.answer
    assert plain.report().store_bytes == 0


def test_what_fits_is_seen_whole_and_has_evidence(model: Loaded, corpus: Corpora) -> None:
    answer = BOTH.ask(model, BOTH.read(model, corpus(SHORT * 4)))
    assert (answer.answered_from, answer.visible.unseen) == ("whole", 0)
    assert answer.evidence[0].line_start == 1


def test_a_window_narrower_than_what_fits_is_not_the_whole(model: Loaded, corpus: Corpora) -> None:
    settings = INDEX.but(choice=MethodChoice(given={"window": 64}))
    reading = settings.read(model, corpus(SHORT * 12))
    assert reading.plan.fits
    assert settings.ask(model, reading).answered_from == "passages"
    assert settings.ask(model, reading, source="window").visible.unseen > 0


def test_a_distance_beyond_the_ceiling_is_refused_before_reading(
    model: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.lm, "hidden", lambda *_: pytest.fail("something was read"))
    settings = Settings(
        choice=MethodChoice(given={"memory_distance": 1000}),
        memory=MemoryChoice("memory", store=True),
    )
    with pytest.raises(UsageError, match="memory-distance 1000"):
        settings.read(model, corpus(TEXT))


def test_what_was_not_kept_cannot_be_answered_from(model: Loaded, corpus: Corpora) -> None:
    reading = INDEX.read(model, corpus(TEXT))
    with pytest.raises(UsageError, match="no memory"):
        INDEX.ask(model, reading, source="memory")
    with pytest.raises(UsageError, match="no passages"):
        PLAIN.ask(model, PLAIN.read(model, corpus(TEXT)), source="passages")


def test_a_model_without_retrieval_heads_answers_from_memory(
    headless: Loaded, corpus: Corpora
) -> None:
    reading = INDEX.read(headless, corpus(TEXT))
    assert set(reading.stores) == {"store"}
    assert INDEX.ask(headless, reading).answered_from == "memory"


def test_heads_that_are_not_known_are_looked_for_once(
    loaded: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    notes = [e.text for e in INDEX.events(loaded, corpus(TEXT)) if isinstance(e, Note)]
    assert any("finding the retrieval heads" in note for note in notes)
    fitting = [e for e in INDEX.events(loaded, corpus(SHORT)) if isinstance(e, Note)]
    assert fitting == []


@pytest.mark.parametrize(("text", "source"), [(SHORT, None), (TEXT, "passages"), (TEXT, "window")])
def test_a_conversation_goes_on(
    model: Loaded, corpus: Corpora, text: str, source: str | None
) -> None:
    earlier = [("Who?", "We.")]
    asker = BOTH.asker(model, BOTH.read(model, corpus(text), ["Why?"]))
    alone, later, long = (
        follow(asker.ask("Why?", 0, turns, answer_from=source))
        for turns in ((), earlier, earlier * 40)
    )
    assert alone != later
    assert long.answered_from == later.answered_from  # the oldest turns are dropped
