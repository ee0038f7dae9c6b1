"""Fixtures for the tests of model files."""

from pathlib import Path

import pytest
from model_builders import model_folder

from lmi_cli.checkpoints import conversion


@pytest.fixture
def quick_conversion(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the conversion by one that takes no time; returns the files it was given."""
    converted: list[Path] = []

    def convert(path: Path, folder: Path, progress: object = None) -> None:
        converted.append(path)
        model_folder(folder)

    monkeypatch.setattr(conversion, "convert", convert)
    return converted


@pytest.fixture(scope="session")
def converted(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is made of it."""
    folder = tmp_path_factory.mktemp("converted")
    conversion.convert(tiny_gguf, folder)
    return folder
