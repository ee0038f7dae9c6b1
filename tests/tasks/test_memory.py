"""Answers from passages, memory and state files; where they come from, and what is refused."""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmi_cli.cache import statefile
from lmi_cli.cache.signature import is_state_file
from lmi_cli.engine.heads import Head, RetrievalHeads
from lmi_cli.errors import ResourceError, StateFileError, UsageError
from lmi_cli.models.heads import known_heads, remember_heads
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks import book
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Note
from lmi_cli.tasks.evidence import nearest_last
from lmi_cli.tasks.methodchoice import NO_MEMORY, MemoryChoice, MethodChoice
from lmi_cli.tasks.reading import AnswerOptions, Reading
from lmi_cli.tasks.report import Answer

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
SHORT = "The grass is green. The sky is blue.\n"
OPTIONS = AnswerOptions(max_new_tokens=6)
BOTH = MemoryChoice(store=True)
EIGHT_BITS = MemoryChoice(store=True, int8=True)


@pytest.fixture(autouse=True)
def _heads(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    heads = RetrievalHeads((Head(1, 0), Head(1, 3), Head(0, 2)), 32)
    remember_heads(loaded.files, heads, [])


def read(loaded: Loaded, corpus: Corpus, memory: MemoryChoice = BOTH, chunk: int = 64) -> Reading:
    reading = Reading(loaded, MethodChoice(), OPTIONS, memory, chunk=chunk)
    list(reading.read(corpus, ["Why?"]))
    return reading


def ask(reading: Reading, question: str = "What is green?", source: str = "auto") -> Answer:
    reading.memory = replace(reading.memory, answer_from=source)
    answer = list(reading.ask(question))[-1]
    assert isinstance(answer, Answer)
    return answer


def test_a_stream_is_answered_from_passages(loaded: Loaded, corpus: Corpora) -> None:
    reading = read(loaded, corpus(TEXT))
    given = ask(reading)
    assert given.answered_from == "passages"
    assert given.visible.reread > 0
    assert given.visible.reread + given.visible.unseen == reading.document.tokens
    assert given.visible.searched == reading.document.tokens - 10
    assert 0 < len(given.evidence) <= 5
    scores = [item.score for item in given.evidence]
    assert scores == sorted(scores, reverse=True)
    for item in given.evidence:
        assert TEXT[item.start : item.end] == item.text
        lines = TEXT.splitlines()[item.line_start - 1 : item.line_end]
        assert item.text in "\n".join(lines)


def test_the_best_passage_stands_next_to_the_question() -> None:
    first, second, third, fourth = (Passage(n, 10 * n, 10 * n + 10) for n in (2, 3, 7, 9))
    assert nearest_last([third, first]) == [first, third]
    assert nearest_last([first, third]) == [third, first]
    assert nearest_last([second, fourth, first]) == [fourth, first, second]
    assert nearest_last([]) == []


def test_memory_sees_more_than_the_window_and_says_so(loaded: Loaded, corpus: Corpora) -> None:
    reading = read(loaded, corpus(TEXT))
    from_memory, from_window = (ask(reading, source=name) for name in ("memory", "window"))
    assert (from_memory.answered_from, from_window.answered_from) == ("memory", "window")
    assert from_memory.visible.searched == from_window.visible.unseen > 0
    assert from_memory.visible.attended == 32
    parameters = reading.report().parameters
    assert {"memory_topk", "memory_from_layer", "memory_distance"} < set(parameters)
    assert from_window.visible.searched == from_window.visible.attended == 0
    plain = read(loaded, corpus(TEXT), NO_MEMORY)
    assert ask(plain, source="window").answer == from_window.answer
    assert plain.report().store_bytes == 0


def test_what_fits_is_seen_whole_and_has_evidence(loaded: Loaded, corpus: Corpora) -> None:
    given = ask(read(loaded, corpus(SHORT * 4)))
    assert (given.answered_from, given.visible.unseen) == ("whole", 0)
    assert given.evidence[0].line_start == 1


def test_a_window_narrower_than_what_fits_is_not_the_whole(loaded: Loaded, corpus: Corpora) -> None:
    reading = Reading(loaded, MethodChoice(window=64), OPTIONS, MemoryChoice(), chunk=64)
    list(reading.read(corpus(SHORT * 12)))
    assert reading.fits
    given = ask(reading)
    assert given.answered_from == "passages"
    assert ask(reading, source="window").visible.unseen > 0


def test_a_distance_beyond_the_ceiling_is_refused_before_reading(
    loaded: Loaded, corpus: Corpora
) -> None:
    memory = MemoryChoice("memory", store=True, distance=1000)
    reading = Reading(loaded, MethodChoice(), OPTIONS, memory, chunk=64)
    with pytest.raises(UsageError, match="memory-distance 1000"):
        list(reading.read(corpus(TEXT)))
    assert reading.document.tokens == 0


def test_what_was_not_kept_cannot_be_answered_from(loaded: Loaded, corpus: Corpora) -> None:
    reading = read(loaded, corpus(TEXT), MemoryChoice())
    with pytest.raises(UsageError, match="no memory"):
        ask(reading, source="memory")
    with pytest.raises(UsageError, match="no passages"):
        ask(read(loaded, corpus(TEXT), NO_MEMORY), source="passages")


def test_a_model_without_such_heads_answers_from_memory(loaded: Loaded, corpus: Corpora) -> None:
    remember_heads(loaded.files, RetrievalHeads((), 32), [])
    assert known_heads(loaded.files) == RetrievalHeads((), 32)
    reading = Reading(loaded, MethodChoice(), OPTIONS, MemoryChoice(), chunk=64)
    notes = [event.text for event in reading.read(corpus(TEXT)) if isinstance(event, Note)]
    assert any("no head" in note for note in notes)
    assert ask(reading).answered_from == "memory"


def test_a_conversation_goes_on(loaded: Loaded, corpus: Corpora) -> None:
    earlier = [("Who?", "We.")]
    for text in (SHORT, TEXT):
        reading = read(loaded, corpus(text))
        for source in ("passages", "window") if text is TEXT else ("auto",):
            reading.memory = replace(reading.memory, answer_from=source)
            alone, later = (list(reading.ask("Why?", 0, turns))[-1] for turns in ((), earlier))
            assert alone != later
            assert list(reading.ask("Why?", 0, earlier * 40))[-1]  # the oldest are dropped


@pytest.mark.parametrize("text", [SHORT, TEXT])
@pytest.mark.parametrize("memory", [NO_MEMORY, MemoryChoice(), BOTH, EIGHT_BITS])
def test_a_state_file_gives_the_same_answers(
    loaded: Loaded, corpus: Corpora, tmp_path: Path, text: str, memory: MemoryChoice
) -> None:
    direct = read(loaded, corpus(text), memory)
    path = tmp_path / "a.lmi"
    size = book.save(direct, path)
    assert size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    restored = book.restore(path, loaded, OPTIONS, memory)
    sources = ["auto", "window", *(["memory"] if memory.store else [])]
    for source in sources if text is TEXT else ["auto"]:
        for question in ("What is green?", "Where?"):
            assert ask(restored, question, source) == ask(direct, question, source)
    assert restored.report().sources == direct.report().sources
    assert book.facts_of(path).tokens == direct.document.tokens


class TestWhatIsFixed:
    """Design, section 4: weights, dtype, tokenizer, prefix, W, S, C, whether a store was kept."""

    @pytest.fixture
    def path(self, loaded: Loaded, corpus: Corpora, tmp_path: Path) -> Path:
        path = tmp_path / "a.lmi"
        book.save(read(loaded, corpus(TEXT), MemoryChoice()), path)
        return path

    @pytest.mark.parametrize("changed", ["window", "sinks", "ceiling"])
    def test_method(self, path: Path, loaded: Loaded, changed: str) -> None:
        held = book.facts_of(path).method[changed]
        same, other = MethodChoice(**{changed: held}), MethodChoice(**{changed: held + 1})
        book.restore(path, loaded, OPTIONS, NO_MEMORY, same)
        with pytest.raises(StateFileError, match=changed):
            book.restore(path, loaded, OPTIONS, NO_MEMORY, other)

    def test_another_method(self, path: Path, loaded: Loaded) -> None:
        with pytest.raises(StateFileError, match="method"):
            book.restore(path, loaded, OPTIONS, NO_MEMORY, MethodChoice("full"))

    def test_weights(self, path: Path, loaded: Loaded) -> None:
        other = replace(loaded, files=replace(loaded.files, identity="other"))
        with pytest.raises(StateFileError, match="model"):
            book.restore(path, other, OPTIONS, NO_MEMORY)

    def test_dtype(self, path: Path) -> None:
        book.check(book.facts_of(path), MethodChoice(), "float32", None, None)
        with pytest.raises(StateFileError, match="dtype"):
            book.check(book.facts_of(path), MethodChoice(), "bfloat16", None, None)

    def test_bits_of_the_weights(self, path: Path) -> None:
        book.check(book.facts_of(path), MethodChoice(), "auto", "none", None)
        with pytest.raises(StateFileError, match="quantize none, not int8"):
            book.check(book.facts_of(path), MethodChoice(), "auto", "int8", None)

    @pytest.mark.parametrize("kept", [BOTH, EIGHT_BITS])
    def test_bits_of_the_store(
        self, kept: MemoryChoice, loaded: Loaded, corpus: Corpora, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.lmi"
        direct = read(loaded, corpus(TEXT), kept)
        book.save(direct, path)
        assert direct.store is not None and direct.store.int8 is kept.int8
        assert book.restore(path, loaded, OPTIONS, kept).store is not None
        if kept is BOTH:
            with pytest.raises(StateFileError, match="holds its store in full"):
                book.restore(path, loaded, OPTIONS, EIGHT_BITS)

    def test_no_store(self, path: Path, loaded: Loaded) -> None:
        with pytest.raises(StateFileError, match="no store"):
            book.restore(path, loaded, OPTIONS, MemoryChoice("memory", store=True))

    def test_prefix(self, loaded: Loaded, corpus: Corpora, tmp_path: Path) -> None:
        path = tmp_path / "short.lmi"
        book.save(read(loaded, corpus(SHORT)), path)
        with pytest.raises(StateFileError, match="beginning"):
            book.restore(path, loaded, replace(OPTIONS, system="Be brief."), MemoryChoice())

    def test_what_stays_free(self, loaded: Loaded, corpus: Corpora, tmp_path: Path) -> None:
        path = tmp_path / "both.lmi"
        book.save(read(loaded, corpus(TEXT)), path)
        answers = set()
        for topk, layer, distance in ((1, 0, 1), (64, 0, 60), (5, 1, 30)):
            memory = MemoryChoice(
                "memory", store=True, topk=topk, from_layer=layer, distance=distance
            )
            reading = book.restore(path, loaded, replace(OPTIONS, system="Be brief."), memory)
            given = list(reading.ask("Why?"))[-1]
            assert isinstance(given, Answer) and given.visible.attended == topk
            answers.add(given.answer)
        assert answers


class TestDamage:
    """F29-F33: found, said, never used."""

    @pytest.fixture
    def path(self, loaded: Loaded, corpus: Corpora, tmp_path: Path) -> Path:
        path = tmp_path / "a.lmi"
        book.save(read(loaded, corpus(TEXT), MemoryChoice()), path)
        return path

    @pytest.mark.parametrize("keep", [0, 1, 8, 100, 5000, -1])
    def test_truncated(self, path: Path, loaded: Loaded, keep: int) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:keep])
        with pytest.raises(StateFileError):
            book.restore(path, loaded, OPTIONS, NO_MEMORY)

    @pytest.mark.parametrize("seed", range(40))
    def test_flipped_bits(self, path: Path, loaded: Loaded, seed: int) -> None:
        data = bytearray(path.read_bytes())
        # Half of them in the header, where most can go wrong.
        end = len(data) if seed % 2 else 8 + int.from_bytes(data[:8], "little")
        at = int(np.random.default_rng(seed).integers(0, end))
        data[at] ^= 1 << (seed % 8)
        path.write_bytes(data)
        with pytest.raises(StateFileError):
            book.restore(path, loaded, OPTIONS, NO_MEMORY)

    def test_foreign_files(self, path: Path, loaded: Loaded, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        foreign = tmp_path / "foreign.lmi"
        save_file({"x": torch.zeros(3)}, str(foreign))
        with pytest.raises(StateFileError, match="no state file"):
            statefile.read(foreign)
        foreign.write_bytes(b"\x80\x04\x95 a pickle, which nobody opens")
        with pytest.raises(StateFileError):
            book.restore(foreign, loaded, OPTIONS, NO_MEMORY)

    def test_another_version(
        self, path: Path, loaded: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(statefile, "VERSION", 99)
            book.save(read(loaded, corpus(TEXT), MemoryChoice()), path)
        with pytest.raises(StateFileError, match="format 99"):
            statefile.describe(path)

    def test_a_description_that_lies(self, path: Path, loaded: Loaded) -> None:
        described, tensors = statefile.read(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        for name in ("heads", "labels", "position", "method"):
            statefile.write(path, tensors, {k: v for k, v in described.items() if k != name})
            with pytest.raises(StateFileError):
                book.restore(path, loaded, OPTIONS, NO_MEMORY)

    def test_a_full_disk_leaves_the_old_file(
        self, path: Path, loaded: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(statefile, "save_file", full)
        with pytest.raises(ResourceError, match="No space left"):
            book.save(read(loaded, corpus(TEXT), MemoryChoice()), path)
        assert path.read_bytes() == before
        assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []

    def test_writers_beside_a_reader(self, path: Path, tmp_path: Path) -> None:
        from threading import Thread

        described, tensors = statefile.read(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        shared = tmp_path / "shared.lmi"
        shutil.copy(path, shared)

        def write(number: int) -> None:
            for _ in range(10):
                statefile.write(shared, tensors, described | {"writer": number})

        writers = [Thread(target=write, args=(number,)) for number in range(2)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert statefile.read(shared)[0]["tokens"] == described["tokens"]
        for writer in writers:
            writer.join()


def test_an_interrupted_reading_is_gone_on_with(
    loaded: Loaded, corpus: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.lmi"
    book.save(read(loaded, corpus(TEXT)), whole)
    monkeypatch.setattr(book, "_FIRST_SAVE_S", 0.0)
    monkeypatch.setattr(book, "_SAVE_SHARE", 0)
    path = tmp_path / "a.lmi"
    first = Reading(loaded, MethodChoice(), OPTIONS, BOTH, chunk=64)
    for number, _ in enumerate(book.read_book(first, corpus(TEXT), path)):
        if number == 20:
            break
    part = tmp_path / "a.lmi.part"
    assert not path.exists()
    assert not book.facts_of(part).complete
    seen: list[int] = []
    original = loaded.lm.hidden

    def hidden(ids: torch.Tensor, forward: object) -> torch.Tensor:
        seen.append(ids.numel())
        return original(ids, forward)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loaded.lm, "hidden", hidden)
        second = Reading(loaded, MethodChoice(), OPTIONS, BOTH, chunk=64)
        list(book.read_book(second, corpus(TEXT), path))
        book.finish(second, path)
    assert not part.exists()
    assert sum(seen) < second.document.tokens - 10 * 64
    one, two = (statefile.read(file)[1] for file in (whole, path))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_sources_are_not_gone_on_with(
    loaded: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    path = tmp_path / "a.lmi"
    begun = read(loaded, corpus(TEXT))
    book.save(begun, tmp_path / "a.lmi.part", complete=False)
    other = Reading(loaded, MethodChoice(), OPTIONS, BOTH, chunk=64)
    with pytest.raises(StateFileError, match="not those"):
        list(book.read_book(other, corpus(TEXT.replace("green", "brown")), path))
    with pytest.raises(StateFileError, match="--keep"):
        light = Reading(loaded, MethodChoice(), OPTIONS, MemoryChoice(), chunk=64)
        list(book.read_book(light, corpus(TEXT), path))


@pytest.mark.parametrize(("first", "second"), [(SHORT, SHORT), (SHORT, TEXT), (TEXT, SHORT)])
def test_more_is_read_behind(
    loaded: Loaded, corpus: Corpora, tmp_path: Path, first: str, second: str
) -> None:
    path, more = tmp_path / "a.lmi", tmp_path / "more.txt"
    more.write_text(second)
    book.save(read(loaded, corpus(first)), path)
    reading = book.restore(path, loaded, OPTIONS, BOTH)
    list(reading.read_on(open_corpus([str(more)], follows=True)))
    book.finish(reading, path)
    again = book.restore(path, loaded, OPTIONS, BOTH)
    assert again.fits == (first == second == SHORT)
    document = again.document
    assert document.text == f"{first}\n\n==> {more} <==\n{second}"
    place = document.place(document.tokens - 1)
    assert (place.source, place.line) == (1, second.count("\n"))
    assert [source.origin for source in again.report().sources] == ["<stdin>", str(more)]
    if not again.fits:
        assert again.engine.method.parameters()["window"] == 64  # that of a stream
        assert again.index is not None
        assert again.index.tokens == document.tokens + len(again.prompt.head) - again.index.first
    assert ask(again) == ask(reading)


def test_a_large_header_is_recognised(tmp_path: Path) -> None:
    """What a header says stands in no certain order, so all of it has to be looked at."""
    path = tmp_path / "a.lmi"
    for number in range(8):
        tensors = {f"tensor{name}.{number}": torch.zeros(1) for name in range(3000)}
        statefile.write(path, tensors, {"number": number})
        assert is_state_file(path)
    (tmp_path / "not").write_bytes(b"\xff" * 100)
    assert not is_state_file(tmp_path / "not")
    assert not is_state_file(tmp_path)


def test_sources_that_changed_are_noted(loaded: Loaded, tmp_path: Path) -> None:
    source, path = tmp_path / "notes.txt", tmp_path / "a.lmi"
    source.write_text(TEXT)
    book.save(read(loaded, open_corpus([str(source)])), path)
    assert book.changes(book.facts_of(path)) == []
    source.write_text(TEXT.replace("green", "brown"))
    assert "has changed" in book.changes(book.facts_of(path))[0]
    source.unlink()
    assert "no longer" in book.changes(book.facts_of(path))[0]
    piped = open_corpus(["-"], stdin=io.BytesIO(TEXT.encode()))
    book.save(read(loaded, piped), path)
    assert book.changes(book.facts_of(path)) == []
