"""Summaries that a model writes: what is kept of its sentences, trees, chains, interruptions."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from chat_model import save_model

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError, ResourceError, UsageError
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.sources import open_corpus
from lmi_cli.tasks import writing
from lmi_cli.tasks.divided import DividedDocument, read_document
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.finished import FinishedParts
from lmi_cli.tasks.summary import LENGTHS, Entry, Length, SummaryReport
from lmi_cli.tasks.writer import Writer
from lmi_cli.tasks.writing import WritingOptions, write_summary
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

TOPICS = ("meadows", "harbours", "castles", "orchards", "bridges")
SHORT = LENGTHS["short"]


def about(topic: str) -> str:
    return f"The {topic} of the country were built and kept by many hands for a very long time."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A model that reads 2,048 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        folder = save_model(Path(mkdtemp()) / "m", max_position_embeddings=2048)
        yield load(resolve(str(folder)), Placement(dtype="float32"))


@pytest.fixture
def book() -> str:
    return "".join(f"# On {topic}\n\n{about(topic)}\n\n" for topic in TOPICS)


def divided_of(model: Loaded, text: str, size: int = 60) -> DividedDocument:
    corpus = open_corpus(["-"], stdin=io.BytesIO(text.encode()))
    document = follow(read_document(TokenStream(corpus, model.tokenizer)))
    return DividedDocument(document, corpus.sources, size)


def options_of(model: Loaded, length: Length = SHORT) -> WritingOptions:
    prompts = prompts_of(model.tokenizer, model.template, None, "")
    return WritingOptions(prompts, length, chunk=64)


Said = Callable[[str, str], list[str]]
"""From a text and an instruction to what the model says."""


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, model: Loaded) -> Callable[[Said], list[str]]:
    """Have the model say something; returns a list that will have all texts it was given."""

    def script(said: Said) -> list[str]:
        seen: list[str] = []

        def write(
            self: Writer, texts: Sequence[np.ndarray], instruction: str, count: int, number: int
        ) -> list[list[str]]:
            found = [model.tokenizer.decode(text.tolist()) for text in texts]
            seen.extend(found)
            return [
                self._sentences(" ".join(said(text, instruction)), instruction, count)
                for text in found
            ]

        monkeypatch.setattr(Writer, "write", write)
        return seen

    return script


def run(
    model: Loaded,
    divided: DividedDocument,
    strategy: str,
    finished: FinishedParts | None = None,
    length: Length = SHORT,
) -> tuple[SummaryReport, list[Entry | Progress | Note]]:
    events: list[Entry | Progress | Note] = []
    task = write_summary(model, divided, [], strategy, options_of(model, length), finished)
    return follow(task, events.append), events


def first_topic(text: str) -> str:
    return next((topic for topic in TOPICS if topic in text), "nothing")


def truthful(text: str, instruction: str) -> list[str]:
    if instruction == writing.PART_INSTRUCTION:
        return [f"The {first_topic(text)} were built by many hands."]
    return [f"The {topic} were built by many hands." for topic in TOPICS if topic in text]


class TestTree:
    def test_each_part_then_the_whole(
        self, model: Loaded, book: str, says: Callable[[Said], list[str]]
    ) -> None:
        seen = says(truthful)
        report, events = run(model, divided_of(model, book), "tree")
        assert report.parts == len(TOPICS) == len(report.outline)
        for topic, entry in zip(TOPICS, report.outline, strict=True):
            (statement,) = entry.statements
            assert statement.text == f"The {topic} were built by many hands."
            assert statement.support is not None and statement.support > 0.7
            place = statement.first.char or 0
            assert book[place:].startswith(f"The {topic}")
        assert [statement.text for statement in report.statements] == [
            f"The {topic} were built by many hands." for topic in TOPICS[:3]
        ]
        assert [statement.part for statement in report.statements] == [0, 1, 2]
        assert len(seen) == len(TOPICS) + 1 and all(topic in seen[-1] for topic in TOPICS)
        assert events[-1] == Progress(5, 5, "parts")

    def test_as_many_rounds_as_it_takes(
        self, model: Loaded, says: Callable[[Said], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [f"{topic}{letter}" for letter in "abcdefgh" for topic in TOPICS]
        text = "".join(f"# On {name}\n\n{about(name)}\n\n" for name in names)

        def said(text: str, instruction: str) -> list[str]:
            found = [name for name in names if name in text]
            return [f"The {name} were built by many hands." for name in found]

        seen = says(said)
        monkeypatch.setattr(Writer, "room", lambda *_: 400)
        report, _ = run(model, divided_of(model, text), "tree")
        assert len(report.outline) == len(names) and len(report.statements) == 3
        rounds = seen[len(names) :]
        assert len(rounds) > 2
        assert all(len(model.tokenizer.encode(each).ids) <= 400 for each in rounds)

    def test_what_the_text_does_not_support_is_left_out(
        self, model: Loaded, book: str, says: Callable[[Said], list[str]]
    ) -> None:
        says(lambda *_: ["Napoleon conquered Moscow in a cold winter."])
        report, events = run(model, divided_of(model, book), "tree")
        assert report.dropped > len(TOPICS)
        assert any(isinstance(event, Note) and "sentences of it" in event.text for event in events)
        said = [statement for entry in report.outline for statement in entry.statements]
        assert [each.text for each in said] == [about(topic) for topic in TOPICS]
        assert all(each.support is None for each in (*said, *report.statements))
        assert {each.text for each in report.statements} <= {each.text for each in said}

    def test_echoes_and_repetitions_are_left_out(
        self, model: Loaded, book: str, says: Callable[[Said], list[str]]
    ) -> None:
        def said(text: str, instruction: str) -> list[str]:
            true = truthful(text, instruction)[:1]
            return ["The text above is about.", *true, *true, "an unfinished", *true]

        says(said)
        report, _ = run(model, divided_of(model, book), "tree", length=LENGTHS["long"])
        for entry in report.outline:
            assert len(entry.statements) == 1
        said_twice = [each.text for each in report.statements]
        assert len(set(said_twice)) == len(said_twice)


class TestChain:
    def test_notes_go_on(self, model: Loaded, book: str, says: Callable[[Said], list[str]]) -> None:
        seen = says(truthful)
        report, _ = run(model, divided_of(model, book), "chain")
        assert len(seen) == len(TOPICS)
        assert "harbours" in seen[1] and "The meadows were" in seen[1]
        assert "The meadows were" not in seen[0]
        assert [each.text for each in report.statements] == [
            f"The {topic} were built by many hands." for topic in TOPICS[:3]
        ]

    def test_silence_keeps_the_notes(
        self, model: Loaded, book: str, says: Callable[[Said], list[str]]
    ) -> None:
        says(lambda text, asked: [] if "castles" in text else truthful(text, asked))
        report, _ = run(model, divided_of(model, book), "chain")
        assert report.statements and len(report.outline) == len(TOPICS)


class TestInterrupted:
    @pytest.mark.parametrize("strategy", ["tree", "chain"])
    @pytest.mark.parametrize("done", [0, 1, 4, 10, 11])
    def test_the_same_as_in_one_go(
        self, model: Loaded, tmp_path: Path, strategy: str, done: int
    ) -> None:
        text = "".join(f"# On {n}\n\n{about(f'place{n}')}\n\n" for n in range(11))
        divided = divided_of(model, text)
        whole, _ = run(model, divided, strategy)
        path = tmp_path / "summary.txt.parts"
        task = write_summary(
            model, divided, [], strategy, options_of(model), FinishedParts(path, "x")
        )
        entries = 0
        for event in task:
            if entries == done:
                break
            entries += isinstance(event, Entry)
        task.close()
        finished = FinishedParts(path, "x")
        assert len(finished.parts) >= done
        some = bool(finished.parts)
        again, events = run(model, divided, strategy, finished)
        assert again.statements == whole.statements and again.outline == whole.outline
        notes = [event.text for event in events if isinstance(event, Note)]
        assert any("interrupted run" in note for note in notes) == some
        assert again.read < whole.read or not some

    def test_other_options_start_again(self, model: Loaded, book: str) -> None:
        divided = divided_of(model, book)
        identities = {
            writing.identity_of(model, divided, strategy, options_of(model, length))
            for strategy in ("tree", "chain")
            for length in (SHORT, LENGTHS["long"])
        }
        identities.add(
            writing.identity_of(model, divided_of(model, book + "More."), "tree", options_of(model))
        )
        assert len(identities) == 5


class TestWriter:
    def test_what_a_model_writes(self, model: Loaded) -> None:
        """A random model writes no sentences, but it ends, and is counted."""
        writer = Writer(model, options_of(model).prompts, Sampling(), 64)
        texts = [writer.ids(about(topic)) for topic in TOPICS[:3]]
        assert len(writer.write(texts, writing.PART_INSTRUCTION, 1, 0)) == 3
        assert writer.read > 3 * len(texts[0])
        assert writer.timing.prefill_s > 0

    @pytest.mark.parametrize(
        ("text", "enough"),
        [
            ("One is here. Two", True),
            ("One is here.", False),  # "here." may be the first part of a name
            ("One is", False),
            ("it goes on and on here and it goes on and on here and", True),
        ],
    )
    def test_it_ends_when_there_is_enough_or_a_loop_begins(
        self, model: Loaded, text: str, enough: bool
    ) -> None:
        writer = Writer(model, options_of(model).prompts, Sampling(), 64)
        assert writer._is_enough(writer.ids(text).tolist(), 1) is enough

    def test_a_model_that_is_too_short(self, loaded: Loaded) -> None:
        with pytest.raises(ModelError, match="leaves no room"):
            writing.part_tokens(loaded.known, options_of(loaded).prompts, SHORT)

    def test_parts_leave_room_for_notes(self, model: Loaded) -> None:
        size = writing.part_tokens(model.known, options_of(model).prompts, SHORT)
        assert 100 < size <= 2048 // 4


class TestFinishedParts:
    def test_kept_and_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parts"
        finished = FinishedParts(path, "id")
        finished.add(0, ["One."])
        finished.add(1, ["Zwei äh.", "\u2028"])
        assert FinishedParts(path, "id").parts == {0: ["One."], 1: ["Zwei äh.", "\u2028"]}
        finished.remove()
        assert not path.exists()

    def test_of_another_run(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parts"
        FinishedParts(path, "id").add(0, ["One."])
        assert FinishedParts(path, "other").parts == {}
        assert FinishedParts(path, "id").parts == {}

    @pytest.mark.parametrize("other", ["my own notes\n", "{}", "\x00"])
    def test_a_file_of_the_user_stays(self, tmp_path: Path, other: str) -> None:
        path = tmp_path / "x.parts"
        path.write_text(other)
        with pytest.raises(UsageError, match="in the way"):
            FinishedParts(path, "id")
        assert path.read_text() == other
        with pytest.raises(UsageError, match="in the way"):
            FinishedParts(tmp_path, "id")
        with pytest.raises(ResourceError, match="cannot be written"):
            FinishedParts(tmp_path / "none" / "x.parts", "id")

    def test_parts_that_the_document_does_not_have(self) -> None:
        finished = FinishedParts(None, "id")
        finished.parts = {-1: [], 0: ["One."], 7: ["Eight."]}
        finished.keep_only(7)
        assert finished.parts == {0: ["One."]}

    @pytest.mark.parametrize(
        "torn",
        [
            '{"part": 1, "sa',
            "null",
            "[]",
            '{"part": "1", "said": []}',
            '{"part": true, "said": []}',
            "\x00\xff",
            "[" * 9999,
        ],
    )
    def test_a_damaged_line_ends_it(self, tmp_path: Path, torn: str) -> None:
        path = tmp_path / "x.parts"
        FinishedParts(path, "id").add(0, ["One."])
        with path.open("a") as file:
            file.write(torn)
        finished = FinishedParts(path, "id")
        finished.add(1, ["Two."])
        assert FinishedParts(path, "id").parts == {0: ["One."], 1: ["Two."]}

    def test_nothing_is_kept_without_a_path(self) -> None:
        finished = FinishedParts(None, "id")
        finished.add(0, ["One."])
        finished.remove()
        assert finished.parts == {0: ["One."]}
