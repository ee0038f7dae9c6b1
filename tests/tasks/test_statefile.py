"""State files: answers as from reading directly, what is fixed, damage, going on, appending."""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reading_helpers import Settings

from lmi_cli.cache import statefile as container
from lmi_cli.cache.signature import is_state_file
from lmi_cli.errors import ResourceError, StateFileError
from lmi_cli.methods import MethodChoice
from lmi_cli.models import speeds
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks import reading as reading_task
from lmi_cli.tasks import statefile
from lmi_cli.tasks.events import Note, follow
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice
from lmi_cli.tasks.reading import Reading
from lmi_cli.text.stream import TokenStream

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
SHORT = "The grass is green. The sky is blue.\n"
PLAIN = Settings(memory=NO_MEMORY)
INDEX = Settings(memory=MemoryChoice())
BOTH = Settings(memory=MemoryChoice(store=True))
EIGHT_BITS = Settings(memory=MemoryChoice(store=True, int8=True))
HEADS = Settings(memory=MemoryChoice(embeddings=False))


def stream(model: Loaded, corpus: Corpus) -> TokenStream:
    return TokenStream(corpus, model.tokenizer)


@pytest.mark.parametrize("text", [SHORT, TEXT])
@pytest.mark.parametrize("settings", [PLAIN, INDEX, HEADS, BOTH, EIGHT_BITS])
def test_a_state_file_gives_the_same_answers(
    model: Loaded, corpus: Corpora, tmp_path: Path, text: str, settings: Settings
) -> None:
    direct = settings.read(model, corpus(text), ["Why?"])
    path = tmp_path / "a.lmi"
    size = statefile.save(model, direct, path)
    assert size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    restored = statefile.restore(path, model)
    assert restored.plan == direct.plan
    sources = ["auto", "window", *(["memory"] if settings.memory.store else [])]
    if settings is HEADS:
        sources = ["auto"]
    for source in sources if text is TEXT else ["auto"]:
        for question in ("What is green?", "Where?"):
            one, two = (settings.ask(model, r, question, source) for r in (restored, direct))
            assert one == two
    reports = (replace(r.report(), cache_bytes=0, store_bytes=0) for r in (restored, direct))
    assert len({str(report) for report in reports}) == 1
    assert statefile.header_of(path).tokens == direct.document.tokens


class TestWhatIsFixed:
    """Weights, precision, prefix, what is fixed of the method, and what was kept."""

    @pytest.fixture
    def path(self, model: Loaded, corpus: Corpora, tmp_path: Path) -> Path:
        path = tmp_path / "a.lmi"
        statefile.save(model, INDEX.read(model, corpus(TEXT)), path)
        return path

    @pytest.mark.parametrize("changed", ["window", "sinks", "ceiling"])
    def test_method(self, path: Path, changed: str) -> None:
        header = statefile.header_of(path)
        held = header.method[changed]
        statefile.check(header, given={changed: held})
        with pytest.raises(StateFileError, match=f"{changed} {held}, not {held + 1}"):
            statefile.check(header, given={changed: held + 1})

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"method": "full"}, "method lm-infinite, not full"),
            ({"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
            ({"quantize": "int8"}, "quantize none, not int8"),
            ({"identity": "other"}, "model"),
            ({"keep": ["store"]}, "keep index, not store"),
        ],
    )
    def test_the_rest(self, path: Path, asked: dict[str, object], said: str) -> None:
        header = statefile.header_of(path)
        with pytest.raises(StateFileError, match=said):
            statefile.check(header, **asked)  # type: ignore[arg-type]

    def test_what_is_asked_for_may_be_what_it_has(self, path: Path) -> None:
        header = statefile.header_of(path)
        statefile.check(header)
        statefile.check(
            header,
            method="lm-infinite",
            dtype="float32",
            quantize="none",
            identity=header.identity,
            keep=["index"],
        )

    def test_weights(self, path: Path, model: Loaded) -> None:
        files = replace(model.files, identity="other")
        other = replace(model, known=replace(model.known, files=files))
        with pytest.raises(
            StateFileError, match=f"was read with the model {files.id}, not with this one"
        ):
            statefile.restore(path, other)

    def test_what_it_does_not_hold(self, path: Path) -> None:
        header = statefile.header_of(path)
        statefile.require_kept(header, "passages")
        with pytest.raises(StateFileError, match="no store"):
            statefile.require_kept(header, "memory")

    @pytest.mark.parametrize("settings", [BOTH, EIGHT_BITS])
    def test_bits_of_the_store(
        self, settings: Settings, model: Loaded, corpus: Corpora, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.lmi"
        statefile.save(model, settings.read(model, corpus(TEXT)), path)
        store = statefile.restore(path, model).stores["store"]
        assert store.int8 is settings.memory.int8

    def test_prefix(self, model: Loaded, corpus: Corpora, tmp_path: Path) -> None:
        path = tmp_path / "short.lmi"
        statefile.save(model, INDEX.read(model, corpus(SHORT)), path)
        reading = statefile.restore(path, model)
        with pytest.raises(StateFileError, match="another beginning"):
            INDEX.but(system="Be brief.").asker(model, reading)

    def test_what_stays_free(self, model: Loaded, corpus: Corpora, tmp_path: Path) -> None:
        path = tmp_path / "both.lmi"
        statefile.save(model, BOTH.read(model, corpus(TEXT)), path)
        reading = statefile.restore(path, model)
        answers = set()
        for topk, layer, distance in ((1, 0, 1), (64, 0, 60), (5, 1, 30)):
            given = {
                "memory_topk": topk, "memory_from_layer": layer, "memory_distance": distance,
            }  # fmt: skip
            settings = BOTH.but(choice=MethodChoice(given=given), system="Be brief.")
            answer = settings.ask(model, reading, "Why?", "memory")
            assert answer.visible.attended == topk
            answers.add(answer.answer)
        assert len(answers) > 1  # how the store is searched makes a difference


class TestDamage:
    """Damage is found and said, and what is damaged is never used."""

    @pytest.fixture
    def path(self, model: Loaded, corpus: Corpora, tmp_path: Path) -> Path:
        path = tmp_path / "a.lmi"
        statefile.save(model, INDEX.read(model, corpus(TEXT)), path)
        return path

    @pytest.mark.parametrize("keep", [0, 1, 8, 100, 5000, -1])
    def test_truncated(self, path: Path, model: Loaded, keep: int) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:keep])
        with pytest.raises(StateFileError):
            statefile.restore(path, model)

    @pytest.mark.parametrize("seed", range(40))
    def test_flipped_bits(self, path: Path, model: Loaded, seed: int) -> None:
        data = bytearray(path.read_bytes())
        # Half of them in the header, where most can go wrong.
        end = len(data) if seed % 2 else 8 + int.from_bytes(data[:8], "little")
        at = int(np.random.default_rng(seed).integers(0, end))
        data[at] ^= 1 << (seed % 8)
        path.write_bytes(data)
        with pytest.raises(StateFileError):
            statefile.restore(path, model)

    def test_foreign_files(self, path: Path, model: Loaded, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        foreign = tmp_path / "foreign.lmi"
        save_file({"x": torch.zeros(3)}, str(foreign))
        with pytest.raises(StateFileError, match="no state file"):
            container.read(foreign)
        foreign.write_bytes(b"\x80\x04\x95 a pickle, which nobody opens")
        with pytest.raises(StateFileError):
            statefile.restore(foreign, model)

    def test_another_version(
        self, path: Path, model: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(container, "VERSION", 99)
            statefile.save(model, INDEX.read(model, corpus(TEXT)), path)
        with pytest.raises(StateFileError, match="format 99"):
            container.read_description(path)

    def test_a_description_that_lies(self, path: Path, model: Loaded) -> None:
        described, tensors = container.read(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        for name in ("heads", "document", "plan", "stores", "choice"):
            container.write(path, tensors, {k: v for k, v in described.items() if k != name})
            with pytest.raises(StateFileError):
                statefile.restore(path, model)

    def test_a_full_disk_leaves_the_old_file(
        self, path: Path, model: Loaded, corpus: Corpora, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(container, "save_file", full)
        with pytest.raises(ResourceError, match="No space left"):
            statefile.save(model, INDEX.read(model, corpus(TEXT)), path)
        assert path.read_bytes() == before
        assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []

    def test_writers_beside_a_reader(self, path: Path, tmp_path: Path) -> None:
        from threading import Thread

        described, tensors = container.read(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        shared = tmp_path / "shared.lmi"
        shutil.copy(path, shared)

        def write(number: int) -> None:
            for _ in range(10):
                container.write(shared, tensors, described | {"writer": number})

        writers = [Thread(target=write, args=(number,)) for number in range(2)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert container.read(shared)[0]["document"] == described["document"]
        for writer in writers:
            writer.join()


def test_an_interrupted_reading_is_continued(
    model: Loaded, corpus: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.lmi"
    statefile.save(model, BOTH.read(model, corpus(TEXT)), whole)
    monkeypatch.setattr(statefile, "_FIRST_SAVE_S", 0.0)
    monkeypatch.setattr(statefile, "_SAVE_SHARE", 0)
    path, request = tmp_path / "a.lmi", BOTH.request(model)
    first = statefile.read_into(model, stream(model, corpus(TEXT)), request, path)
    for number, _ in enumerate(first):
        if number == 20:
            break
    part = tmp_path / "a.lmi.part"
    assert not path.exists()
    assert not statefile.header_of(part).complete
    seen: list[int] = []
    original = model.lm.hidden

    def hidden(ids: torch.Tensor, attention: object, depth: int | None = None) -> torch.Tensor:
        seen.append(ids.numel())
        return original(ids, attention)  # type: ignore[arg-type]

    events: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(model.lm, "hidden", hidden)
        second = statefile.read_into(model, stream(model, corpus(TEXT)), request, path)
        reading = follow(second, events.append)
        statefile.finish(model, reading, path)
    assert not part.exists()
    assert any(isinstance(event, Note) and "continuing" in event.text for event in events)
    # Restoring reads one token more, to compare with.
    assert sum(seen) == 1 + reading.fresh_tokens < reading.document.tokens - 10 * 64
    one, two = (container.read(file)[1] for file in (whole, path))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (TEXT.replace("green", "brown"), BOTH, "sources differ"),
        (TEXT, INDEX, "keep index, store, not index"),
        (TEXT, BOTH.but(chunk=32), "chunk 64, not 32"),
        (TEXT, BOTH.but(choice=MethodChoice(given={"window": 32})), "window 64, not 32"),
    ],
)
def test_what_differs_is_not_continued(
    model: Loaded, corpus: Corpora, tmp_path: Path, text: str, settings: Settings, said: str
) -> None:
    path = tmp_path / "a.lmi"
    begun = BOTH.read(model, corpus(TEXT))
    statefile.save(model, begun, tmp_path / "a.lmi.part", complete=False)
    task = statefile.read_into(model, stream(model, corpus(text)), settings.request(model), path)
    with pytest.raises(StateFileError, match=said) as caught:
        follow(task)
    assert "remove" in str(caught.value.hint)


def appended(model: Loaded, reading: Reading, settings: Settings, more: Path) -> Reading:
    corpus = open_corpus([str(more)], follows=True)
    request = settings.request(model)
    task = statefile.read_into(
        model, stream(model, corpus), request, more.with_suffix(".lmi"), behind=reading
    )
    return follow(task)


@pytest.mark.parametrize(("first", "second"), [(SHORT, SHORT), (SHORT, TEXT), (TEXT, SHORT)])
def test_more_is_read_behind(
    model: Loaded, corpus: Corpora, tmp_path: Path, first: str, second: str
) -> None:
    path, more = tmp_path / "a.lmi", tmp_path / "more.txt"
    more.write_text(second)
    statefile.save(model, BOTH.read(model, corpus(first)), path)
    reading = appended(model, statefile.restore(path, model), BOTH, more)
    statefile.finish(model, reading, path)
    again = statefile.restore(path, model)
    assert again.plan.fits == (first == second == SHORT)
    document = again.document
    assert document.text == f"{first}\n\n==> {more} <==\n{second}"
    place = document.place(document.tokens - 1)
    assert (place.source, place.line) == (1, second.count("\n"))
    assert [source.origin for source in again.report().sources] == ["<stdin>", str(more)]
    if not again.plan.fits:
        assert again.plan.method.local_window == 64  # that of a stream
        index = again.stores["index"]
        assert index.tokens == document.tokens + len(again.plan.prefix) - index.first
    assert BOTH.ask(model, again) == BOTH.ask(model, reading)


def test_a_stream_that_is_appended_to_keeps_what_it_kept(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    """Whatever is asked for now, and what has been read is not read again."""
    more = tmp_path / "more.txt"
    more.write_text(SHORT)
    reading = appended(model, EIGHT_BITS.read(model, corpus(TEXT)), INDEX, more)
    assert set(reading.stores) == {"index", "store"} and reading.stores["store"].int8
    assert reading.fresh_tokens < reading.document.tokens / 10


def test_a_large_header_is_recognised(tmp_path: Path) -> None:
    """What a header says stands in no certain order, so all of it has to be looked at."""
    path = tmp_path / "a.lmi"
    for number in range(8):
        tensors = {f"tensor{name}.{number}": torch.zeros(1) for name in range(3000)}
        container.write(path, tensors, {"number": number})
        assert is_state_file(path)
    (tmp_path / "not").write_bytes(b"\xff" * 100)
    assert not is_state_file(tmp_path / "not")
    assert not is_state_file(tmp_path)


def test_sources_that_changed_are_noted(model: Loaded, tmp_path: Path) -> None:
    source, path = tmp_path / "notes.txt", tmp_path / "a.lmi"
    source.write_text(TEXT)
    statefile.save(model, BOTH.read(model, open_corpus([str(source)])), path)
    assert statefile.changes(statefile.header_of(path)) == []
    source.write_text(TEXT.replace("green", "brown"))
    assert "has changed" in statefile.changes(statefile.header_of(path))[0]
    source.unlink()
    assert "no longer" in statefile.changes(statefile.header_of(path))[0]
    piped = open_corpus(["-"], stdin=io.BytesIO(TEXT.encode()))
    statefile.save(model, BOTH.read(model, piped), path)
    assert statefile.changes(statefile.header_of(path)) == []


def test_what_is_appended_is_read_like_everything_else(
    model: Loaded, corpus: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the warnings and the notes of the encoder, and its speed is remembered."""
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(speeds, "_LEAST_TOKENS", 1)
    settings = INDEX.but(choice=MethodChoice(given={"window": 300}))
    reading = settings.read(model, corpus(TEXT))
    before = speeds.recall(model.files)
    monkeypatch.setattr(reading_task, "speed_setting", lambda *_: "this setting")
    more = tmp_path / "more.txt"
    more.write_text(TEXT)
    source = stream(model, open_corpus([str(more)], follows=True))
    source.notes.append("something about the encoding")
    events: list[object] = []
    request = settings.request(model)
    follow(statefile.read_into(model, source, request, more, behind=reading), events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "window 300 is beyond the trained length of 256 tokens" in notes
    assert "something about the encoding" in notes
    assert speeds.recall(model.files).keys() - before.keys() == {"this setting"}
