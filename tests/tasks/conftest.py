"""The tiny chat model, loaded, corpora made of strings, and readings of them."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from chat_model import shared_model

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.sources import Corpus, open_corpus

HEADS = RetrievalHeads((AttentionHead(1, 0), AttentionHead(1, 3), AttentionHead(0, 2)), 32)


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A model whose retrieval heads have not been looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return load(resolve(str(shared_model())), Placement(dtype="float32"))


@pytest.fixture(scope="session")
def model(loaded: Loaded) -> Loaded:
    """The same with retrieval heads."""
    return replace(loaded, known=replace(loaded.known, heads=HEADS))


@pytest.fixture(scope="session")
def headless(loaded: Loaded) -> Loaded:
    """The same, known to have none."""
    return replace(loaded, known=replace(loaded.known, heads=RetrievalHeads((), 32)))


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """A corpus of the given texts, one file each; a single one comes through a pipe."""

    def make(*texts: str) -> Corpus:
        if len(texts) == 1:
            return open_corpus(["-"], stdin=io.BytesIO(texts[0].encode()))
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.txt"
            path.write_text(text, encoding="utf-8")
            paths.append(str(path))
        return open_corpus(paths)

    return make
