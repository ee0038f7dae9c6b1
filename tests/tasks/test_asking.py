"""Answers from passages, store and window: where they come from, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from reading_helpers import Settings

from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks.asking import Asker
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Delta, Note, follow
from lmi_cli.tasks.finder import SHORTLIST, Ranked, read_again
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice
from lmi_cli.tasks.report import Answer

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


def test_a_neighbour_that_ranks_next_and_as_high_is_read_too() -> None:
    first, second, third = (Passage(n, 10 * n, 10 * n + 10) for n in (2, 3, 7))
    for scores, order, want in (
        ((5.0, 4.0), (second, first), [first, second]),
        ((5.0, 4.0), (first, second), [first, second]),
        ((5.0, 2.0), (first, second), [first]),
        ((5.0, 4.0), (first, third), [first]),
        ((5.0,), (third,), [third]),
    ):
        ranked = [Ranked(*item) for item in zip(order, scores, strict=True)]
        assert read_again(ranked) == want


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


def test_a_model_without_retrieval_heads_finds_passages_by_words_and_embeddings(
    headless: Loaded, corpus: Corpora
) -> None:
    reading = INDEX.read(headless, corpus(TEXT + "A walrus sleeps.\n" + TEXT))
    assert not reading.stores and reading.means is not None
    asker = INDEX.asker(headless, reading)
    assert "walrus" in asker.evidence(asker.ranked("Where is the walrus?"))[0].text
    assert INDEX.ask(headless, reading).answered_from == "passages"
    # Nothing says which sentence matters.
    assert not asker.evidence(asker.ranked("Where?"))[0].quotes
    assert INDEX.asker(headless, reading).ranked("Qwxyz?")


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


QUESTIONS = ["What is green?", "Where is the walrus?", "Why?", *(f"Who is {n}?" for n in range(8))]


@pytest.mark.parametrize("settings", [INDEX, PLAIN])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_questions_asked_together_are_answered_as_if_alone(
    model: Loaded, corpus: Corpora, settings: Settings, temperature: float
) -> None:
    settings = settings.but(sampling=Sampling(temperature), max_new_tokens=9)
    reading = settings.read(model, corpus(TEXT))
    alone = []
    for index, question in enumerate(QUESTIONS):
        alone.append(follow(settings.asker(model, reading).ask(question, index)))
    events: list[Delta | Answer] = []
    together = follow(settings.asker(model, reading).ask_all(QUESTIONS), events.append)
    assert together == alone
    assert [event for event in events if isinstance(event, Answer)] == together
    # Each answer comes after all of its text, and before any text of the next one.
    texts = [""] * len(QUESTIONS)
    current = 0
    for event in events:
        if isinstance(event, Answer):
            assert texts[current] == event.answer
            current += 1
        else:
            assert event.index == current
            texts[current] += event.text


def test_the_prompt_is_what_the_model_was_given(model: Loaded, corpus: Corpora) -> None:
    settings = INDEX.but(max_new_tokens=2)
    for text, source in ((SHORT, "whole"), (TEXT, "passages"), (TEXT, "window")):
        reading = settings.read(model, corpus(text))
        options = replace(settings.options(model), show_prompt=True, answer_from="auto")
        asker = Asker(model, reading, options)
        wanted = None if source == "whole" else source
        answer = follow(asker.ask("What is green?", answer_from=wanted))
        assert answer.answered_from == source
        prompt = answer.prompt or ""
        assert prompt.count("What is green?") == 1
        unseen = answer.visible.unseen
        assert (f"[{unseen:,} tokens that the model does not see]" in prompt) == (
            source == "window"
        )
        if source == "passages":
            quotes = " ".join(quote.text for quote in answer.evidence[0].quotes)
            assert quotes in prompt and answer.evidence[0].text in prompt
        else:
            assert text[-30:] in prompt
    assert follow(settings.asker(model, reading).ask("Why?")).prompt is None


def test_what_was_read_for_its_index_alone_answers_from_passages_alone(
    model: Loaded, corpus: Corpora
) -> None:
    heads = INDEX.but(memory=MemoryChoice(embeddings=False))
    reading = heads.read(model, corpus(TEXT))
    assert reading.plan.depth is not None and len(reading.state.caches) == reading.plan.depth
    assert heads.ask(model, reading).answered_from == "passages"
    with pytest.raises(UsageError, match="index"):
        heads.ask(model, reading, source="window")
    wide = heads.but(choice=MethodChoice(given={"window": 5000}))
    assert wide.ask(model, wide.read(model, corpus(TEXT))).answered_from == "passages"
    full = heads.but(choice=MethodChoice("full"))
    assert full.read(model, corpus(TEXT)).plan.depth is None
    short = heads.read(model, corpus(SHORT))
    assert short.plan.depth is None and heads.ask(model, short).answered_from == "whole"


def test_careful_ranking_reorders_the_best_of_fast_ranking(model: Loaded, corpus: Corpora) -> None:
    reading = INDEX.read(model, corpus(TEXT))
    orders = []
    for rank in ("fast", "careful"):
        asker = Asker(model, reading, replace(INDEX.options(model), rank=rank))
        orders.append([item.passage.number for item in asker.ranked("What is green?")])
    fast, careful = orders
    assert set(fast) == set(careful)
    shortlist = set(fast[:SHORTLIST])
    assert [n for n in careful if n not in shortlist] == fast[SHORTLIST:]
    assert sorted(fast) == list(range(len(reading.document.borders) - 1))


def test_evidence_says_what_it_stands_under(model: Loaded, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Animals\n\nA walrus sleeps.\n\n# Plants\n\n" + TEXT)
    (tmp_path / "b.py").write_text("class Zoo:\n    def feed(self):\n        return 'fish'\n")
    reading = INDEX.read(model, open_corpus([str(tmp_path)]))
    asker = INDEX.asker(model, reading)
    found = asker.evidence(asker.ranked("Why?"), 100)
    titles = {name: [e.headings for e in found if e.source.endswith(name)] for name in ("md", "py")}
    assert ["Plants"] in titles["md"] and titles["py"] in ([[]], [["Zoo"]], [["Zoo", "feed"]])
