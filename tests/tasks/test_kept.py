"""Files of the index alone, and how they are continued and appended to."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reading_helpers import Settings

from lmi_cli.errors import StateFileError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks import statefile
from lmi_cli.tasks.events import Note, follow
from lmi_cli.tasks.plan import MemoryChoice
from lmi_cli.text.stream import TokenStream

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))
INDEX = Settings(memory=MemoryChoice())
HEADS = Settings(memory=MemoryChoice(embeddings=False))


def test_a_file_of_the_index_alone_says_what_it_cannot_do(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    path, whole = tmp_path / "heads.lmi", tmp_path / "full.lmi"
    reading = HEADS.read(model, corpus(TEXT))
    assert reading.plan.depth == 2 and reading.means is None
    statefile.save(model, reading, path)
    statefile.save(model, INDEX.read(model, corpus(TEXT)), whole)
    for answer_from in ("window", "memory"):
        with pytest.raises(StateFileError, match="index") as refused:
            statefile.require_kept(statefile.header_of(path), answer_from)
        assert "lmi read" in (refused.value.hint or "") or "--keep" in (refused.value.hint or "")
    for answer_from in ("auto", "passages"):
        statefile.require_kept(statefile.header_of(path), answer_from)
        statefile.require_kept(statefile.header_of(whole), answer_from)
    statefile.require_kept(statefile.header_of(whole), "window")


def test_an_index_is_continued_as_it_was_begun(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    """Mean states included, whose blocks do not end where an interruption does."""
    for settings in (INDEX, HEADS):
        whole = settings.read(model, corpus(TEXT))
        half, path = [], tmp_path / "half.lmi"
        task = settings.task(model, corpus(TEXT), after_chunk=half.append)
        for event in task:
            if not isinstance(event, Note) and event.done > 900:
                break
        statefile.save(model, half[-1], path, complete=False)
        task.close()
        again = settings.read(model, corpus(TEXT), earlier=statefile.restore(path, model))
        assert again.plan == whole.plan
        questions = ("What is green?", "Where?")
        assert [settings.ask(model, again, q) for q in questions] == [
            settings.ask(model, whole, q) for q in questions
        ]
        with pytest.raises(StateFileError, match=r"index|layers"):
            other = HEADS if settings is INDEX else INDEX
            other.read(model, corpus(TEXT), earlier=statefile.restore(path, model))


def test_appending_reads_as_deep_as_the_file_was_read(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    """Whatever the command for appending says about answers."""
    given = MethodChoice(given={"window": 64})
    for source, depth in (("window", None), ("auto", 2)):
        settings = HEADS.but(memory=MemoryChoice(source, embeddings=False), choice=given)
        reading = settings.read(model, corpus(TEXT))
        assert reading.plan.depth == depth
        more = tmp_path / "more.txt"
        more.write_text(TEXT)
        appended = follow(
            statefile.read_into(
                model,
                TokenStream(open_corpus([str(more)], follows=True), model.tokenizer),
                HEADS.but(choice=given).request(model),
                tmp_path / "out.lmi",
                behind=reading,
            )
        )
        assert appended.plan.depth == depth
        statefile.finish(model, appended, tmp_path / "out.lmi")
        restored = statefile.restore(tmp_path / "out.lmi", model)
        assert restored.document.tokens == appended.document.tokens
