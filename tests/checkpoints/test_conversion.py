"""What can go wrong while a GGUF file is converted, apart from the file itself."""

from pathlib import Path

import pytest
import safetensors.torch
from safetensors import SafetensorError

from lmi_cli.checkpoints import conversion
from lmi_cli.errors import ResourceError


def test_a_full_disk(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that writes the weights says so in words only."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        conversion.convert(tiny_gguf, tmp_path)
