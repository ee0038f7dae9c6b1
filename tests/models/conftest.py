import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMI_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound GGUF file of a few kilobytes."""
    from model_builders import tiny_gguf as write

    return write(tmp_path_factory.mktemp("gguf") / "Tiny.Q8_0.gguf")
