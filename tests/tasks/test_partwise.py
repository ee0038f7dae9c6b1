"""Answers for which a document is read part by part: segments (XL3M) and notes (chain)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from chat_model import save_model
from reading_helpers import Settings

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import MEASURES
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError, UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks import statefile
from lmi_cli.tasks.asking import Asker
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Delta, Progress, follow
from lmi_cli.tasks.finder import Ranked
from lmi_cli.tasks.noting import INSTRUCTION, NOTES
from lmi_cli.tasks.plan import MemoryChoice
from lmi_cli.tasks.report import Answer
from lmi_cli.tasks.rereading import arranged, fitting
from lmi_cli.tasks.segments import Segments
from lmi_cli.tasks.writer import Writer

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
SHORT = "The grass is green. The sky is blue.\n"
XL3M = Settings(memory=MemoryChoice("xl3m", index=False))
CHAIN = Settings(memory=MemoryChoice("chain", index=False))
INDEX = Settings(memory=MemoryChoice())
QUESTIONS = ["What is green?", "Where is the walrus?", "Why?", *(f"Who is {n}?" for n in range(7))]
HEADS = RetrievalHeads((AttentionHead(1, 0), AttentionHead(0, 2)), 32)
TOPICS = ("meadows", "harbours", "castles", "orchards", "bridges")


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A model that reads 1,024 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        folder = save_model(Path(mkdtemp()) / "m", max_position_embeddings=1024)
        yield load(resolve(str(folder)), Placement(dtype="float32"))


class TestSegments:
    def test_the_best_that_have_room_in_the_order_of_the_document(
        self, model: Loaded, corpus: Corpora
    ) -> None:
        reading = XL3M.read(model, corpus(TEXT))
        assert reading.plan.form == "parts" and reading.state.tokens == 0
        asker = Asker(model, reading, replace(XL3M.options(model), show_prompt=True))
        answer = follow(asker.ask("What is green?"))
        assert answer.answered_from == "xl3m"
        assert answer.passages == len(answer.evidence) > 1
        scores = [item.score for item in answer.evidence]
        assert scores == sorted(scores, reverse=True) and scores[0] < 0
        starts = sorted(item.start for item in answer.evidence)
        prompt = answer.prompt or ""
        assert [prompt.index(TEXT[start : start + 20]) for start in starts] == sorted(
            prompt.index(TEXT[start : start + 20]) for start in starts
        )
        for item in answer.evidence:
            assert TEXT[item.start : item.end] == item.text
        again = answer.visible.reread
        assert again + answer.visible.unseen == reading.document.tokens == answer.visible.searched
        room = 256 - XL3M.max_new_tokens - len(model.tokenizer.encode(prompt).ids) + again
        unused = [p for p in self.segments(model, reading.document).passages if len(p) <= room]
        assert again <= room and len(unused) > answer.passages
        assert asker.timing.parts_s > 0 and asker.timing.prefill_s == 0

    @staticmethod
    def segments(model: Loaded, document: object, measure: str = MEASURES[0]) -> Segments:
        prompt = XL3M.prompts(model).around_passages()
        return Segments(model, document, prompt, 64, measure)  # type: ignore[arg-type]

    def test_the_measure_decides(self, model: Loaded, corpus: Corpora) -> None:
        document = XL3M.read(model, corpus(TEXT)).document
        orders = []
        for measure in MEASURES:
            segments = self.segments(model, document, measure)
            events: list[Progress] = []
            (ranked,) = follow(segments.rank(["What is green?"]), events.append)
            assert events[-1] == Progress(document.tokens, document.tokens)
            assert sorted(it.passage.number for it in ranked) == list(range(len(ranked)))
            orders.append([item.passage.number for item in ranked])
            assert segments.read > document.tokens
        assert orders[0] != orders[1]

    def test_no_more_than_asked_for(self, model: Loaded, corpus: Corpora) -> None:
        reading = XL3M.read(model, corpus(TEXT))
        options = replace(XL3M.options(model), passages=1)
        answer = follow(Asker(model, reading, options).ask("What is green?"))
        all_of_them = XL3M.ask(model, reading)
        assert len(answer.evidence) == 1 and answer.evidence[0] == all_of_them.evidence[0]

    def test_any_reading_of_the_text_will_do(
        self, model: Loaded, corpus: Corpora, tmp_path: Path
    ) -> None:
        direct = XL3M.ask(model, XL3M.read(model, corpus(TEXT)))
        stream = INDEX.read(model, corpus(TEXT))
        assert INDEX.ask(model, stream, source="xl3m") == direct
        statefile.save(model, stream, tmp_path / "x.lmi")
        stored = statefile.restore(tmp_path / "x.lmi", model)
        assert XL3M.ask(model, stored) == direct

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_questions_asked_together_are_answered_as_if_alone(
        self, model: Loaded, corpus: Corpora, temperature: float
    ) -> None:
        settings = XL3M.but(sampling=Sampling(temperature))
        reading = settings.read(model, corpus(TEXT))
        alone = [
            follow(settings.asker(model, reading).ask(question, index))
            for index, question in enumerate(QUESTIONS)
        ]
        events: list[Delta | Answer | Progress] = []
        together = follow(settings.asker(model, reading).ask_all(QUESTIONS), events.append)
        for one, other in zip(alone, together, strict=True):
            assert one.answer == other.answer and one.passages == other.passages
            assert [e.start for e in one.evidence] == [e.start for e in other.evidence]
        ends = [e.done for e in events if isinstance(e, Progress)].count(reading.document.tokens)
        assert ends == 1  # the segments were read once for all questions

    def test_a_conversation_goes_on(self, model: Loaded, corpus: Corpora) -> None:
        reading = XL3M.read(model, corpus(TEXT))
        answer = XL3M.ask(model, reading, "Why?", earlier=[("Who?", "We.")] * 40)
        assert answer.answered_from == "xl3m" and answer.visible.reread > 0

    def test_a_question_that_leaves_no_room(self, model: Loaded, corpus: Corpora) -> None:
        reading = XL3M.read(model, corpus(TEXT))
        with pytest.raises(UsageError, match="a segment of it has up to"):
            XL3M.ask(model, reading, "why " * 60)

    def test_pages_and_sources_are_not_crossed(self, model: Loaded, corpus: Corpora) -> None:
        reading = XL3M.read(model, corpus(TEXT, SHORT * 30))
        answer = XL3M.ask(model, reading)
        assert {Path(item.source).name for item in answer.evidence} <= {"0.txt", "1.txt"}
        for passage in self.segments(model, reading.document).passages:
            first, last = (reading.document.place(t) for t in (passage.first, passage.stop - 1))
            assert first.source == last.source


class TestWhatIsRead:
    @pytest.mark.parametrize("settings", [XL3M, CHAIN])
    def test_nothing_before_a_question(
        self, model: Loaded, corpus: Corpora, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(model.lm, "hidden", lambda *_: pytest.fail("something was read"))
            events = settings.events(model, corpus(TEXT))
        assert any(isinstance(event, Progress) for event in events)
        reading = settings.read(model, corpus(TEXT))
        assert reading.document.text == TEXT and reading.timing().prefill_s == 0
        with pytest.raises(UsageError, match="nothing can be answered from window"):
            settings.ask(model, reading, source="window")
        with pytest.raises(UsageError, match="nothing has been read yet"):
            statefile.save(model, reading, Path("never.lmi"))

    @pytest.mark.parametrize("settings", [XL3M, CHAIN])
    def test_what_fits_is_seen_whole(
        self, model: Loaded, corpus: Corpora, settings: Settings
    ) -> None:
        answer = settings.ask(model, settings.read(model, corpus(SHORT * 4)))
        assert (answer.answered_from, answer.visible.unseen) == ("whole", 0)

    @pytest.mark.parametrize(
        "choice", [MethodChoice("truncate"), MethodChoice(given={"window": 64})]
    )
    def test_a_method_is_refused(
        self, model: Loaded, corpus: Corpora, choice: MethodChoice
    ) -> None:
        with pytest.raises(UsageError, match="cannot be combined with --method"):
            XL3M.but(choice=choice).read(model, corpus(TEXT))


Said = Callable[[str, str], str]
"""From what stands before the model and an instruction to what it writes."""


class TestChain:
    @pytest.fixture
    def book(self, tmp_path: Path) -> Path:
        path = tmp_path / "book.md"
        about = "of the country were built and kept by many hands for a very long time."
        path.write_text(
            "".join(f"# On {each}\n\n{f'The {each} {about} ' * 9}\n\n" for each in TOPICS)
        )
        return path

    @pytest.fixture
    def says(self, monkeypatch: pytest.MonkeyPatch, longer: Loaded) -> Callable[[Said], list[str]]:
        """Have the model write something; returns a list that will have all it was given."""

        def script(said: Said) -> list[str]:
            seen: list[str] = []

            def write_behind(
                self: Writer,
                text: np.ndarray,
                more: Sequence[np.ndarray],
                instructions: Sequence[str],
                count: int,
                number: int,
            ) -> list[str]:
                decode = longer.tokenizer.decode
                given = [decode(text.tolist()) + decode(ids.tolist()) for ids in more]
                seen.extend(given)
                return [said(each, asked) for each, asked in zip(given, instructions, strict=True)]

            monkeypatch.setattr(Writer, "write_behind", write_behind)
            return seen

        return script

    def ask(self, longer: Loaded, book: Path, *questions: str) -> list[Answer]:
        reading = CHAIN.read(longer, open_corpus([str(book)]))
        options = replace(CHAIN.options(longer), show_prompt=True)
        return follow(Asker(longer, reading, options).ask_all(questions))

    def test_notes_go_from_part_to_part_and_the_answer_comes_from_the_last(
        self, longer: Loaded, book: Path, says: Callable[[Said], list[str]]
    ) -> None:
        def true(text: str, asked: str) -> str:
            found = [each for each in TOPICS if f"The {each} " in text]
            return " ".join(f"The {each} were built by many hands." for each in found[:NOTES])

        seen = says(true)
        (answer,) = self.ask(longer, book, "Who built the country?")
        assert answer.answered_from == "chain" and answer.visible.noted > 0
        assert len(seen) > 2 and "The meadows were built by many hands." in seen[1]
        assert "by many hands" not in seen[0].replace("kept by many hands", "")
        assert answer.notes and all(note in (answer.prompt or "") for note in answer.notes)
        text = book.read_text()
        for item, note in zip(answer.evidence, answer.notes, strict=True):
            assert text[item.start : item.end] == item.text and 0.5 <= item.score <= 1
            topic = note.split()[1]
            assert item.text.startswith(f"The {topic}") and item.headings == [f"On {topic}"]
            assert item.line_start is not None

    def test_what_no_part_supports_is_left_out_and_silence_keeps_the_notes(
        self, longer: Loaded, book: Path, says: Callable[[Said], list[str]]
    ) -> None:
        def said(text: str, asked: str) -> str:
            if "The castles of" in text:
                return "The castles were built by many hands."
            return "Napoleon conquered Moscow in a cold winter."

        says(said)
        (answer,) = self.ask(longer, book, "Who built the castles?")
        assert answer.notes == ["The castles were built by many hands."]
        assert [item.headings for item in answer.evidence] == [["On castles"]]

    def test_nothing_is_claimed_without_notes(
        self, longer: Loaded, book: Path, says: Callable[[Said], list[str]]
    ) -> None:
        says(lambda text, asked: f"{asked} Who built it? nothing whole")
        (answer,) = self.ask(longer, book, "Who built it?")
        assert answer.answered_from == "chain" and not answer.notes and not answer.evidence

    def test_several_questions_share_the_reading(
        self, longer: Loaded, book: Path, says: Callable[[Said], list[str]]
    ) -> None:
        seen = says(lambda text, asked: "")
        self.ask(longer, book, "Who?")
        alone = len(seen)
        self.ask(longer, book, "Who?", "Why?", "When?")
        assert len(seen) == 4 * alone

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_what_a_model_writes(self, longer: Loaded, book: Path, temperature: float) -> None:
        """A random model writes no sentences, but it ends, and the same each time."""
        settings = CHAIN.but(sampling=Sampling(temperature))
        reading = settings.read(longer, open_corpus([str(book)]))
        events: list[Delta | Answer | Progress] = []
        asker = settings.asker(longer, reading)
        first = follow(asker.ask_all(["Who?", "Why?"]), events.append)
        parts = [event for event in events if isinstance(event, Progress)]
        assert parts[-1].done == parts[-1].total == len(parts) and parts[-1].unit == "parts"
        assert asker.timing.parts_s > 0
        alone = [
            follow(settings.asker(longer, reading).ask(q, n))
            for n, q in enumerate(("Who?", "Why?"))
        ]
        assert first == alone

    def test_what_is_written_behind_a_text_is_what_is_written_about_the_whole(
        self, longer: Loaded
    ) -> None:
        prompts = CHAIN.prompts(longer).for_instructions()
        text, more = (longer.tokenizer.encode(each).ids for each in ("The grass. ", "The sky. "))
        asked = INSTRUCTION.format(question="Why?")
        writer = Writer(longer, prompts, Sampling(), 16)
        (behind,) = writer.write_behind(text, [more], [asked], 1, 0)
        read = writer.read
        (whole,) = writer.write_behind(np.concatenate([text, more]), [more[:0]], [asked], 1, 0)
        assert behind == whole and writer.read == 2 * read

    def test_a_model_that_is_too_short(self, loaded: Loaded, corpus: Corpora) -> None:
        reading = CHAIN.read(loaded, corpus(TEXT))
        with pytest.raises(ModelError, match="leaves no room for parts"):
            CHAIN.ask(loaded, reading)


class TestOrders:
    def test_the_orders_of_passages(self) -> None:
        best = [Passage(n, 10 * n, 10 * n + 10) for n in (4, 1, 7, 2, 5)]
        numbers = {
            order: [passage.number for passage in arranged(best, order)]
            for order in ("document", "best-last", "ends")
        }
        assert numbers == {
            "document": [1, 2, 4, 5, 7],
            "best-last": [5, 2, 7, 1, 4],
            "ends": [1, 2, 5, 7, 4],
        }
        assert [passage.number for passage in arranged(best[:2], "ends")] == [1, 4]
        assert arranged(best[:1], "ends") == best[:1]

    def test_as_many_as_have_room(self, model: Loaded) -> None:
        gap = len(model.tokenizer.encode("\n\n").ids)
        ranked = [Ranked(Passage(n, 0, size), 0.0) for n, size in enumerate((10, 50, 5))]

        def taken(room: int, most: int | None = None) -> list[int]:
            found = fitting(ranked, model.tokenizer, room, most)
            return [item.passage.number for item in found]

        assert taken(65 + 3 * gap) == [0, 1, 2]
        assert taken(64 + 3 * gap) == [0, 1]
        assert taken(59 + 2 * gap) == [0, 2]
        assert taken(1000, 2) == [0, 1] and taken(4) == []

    @pytest.mark.parametrize("order", ["document", "best-last", "ends"])
    def test_passages_stand_in_the_prompt_as_asked_for(
        self, longer: Loaded, corpus: Corpora, order: str
    ) -> None:
        model = replace(longer, known=replace(longer.known, heads=HEADS))
        reading = INDEX.read(model, corpus(TEXT))
        document = reading.document
        options = replace(
            INDEX.options(model), passages=3, passage_order=order, show_prompt=True, rank="fast"
        )
        asker = Asker(model, reading, options)
        best = [item.passage for item in asker.ranked("What is green?")][:3]
        answer = follow(asker.ask("What is green?"))
        texts = [document.text[slice(*document.span(each))] for each in arranged(best, order)]
        places = [(answer.prompt or "").index(text) for text in texts]
        assert places == sorted(places) and answer.passages == 3
        assert answer.visible.reread == sum(map(len, best))
