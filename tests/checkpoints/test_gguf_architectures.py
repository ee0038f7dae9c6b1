"""A tiny model of every architecture that GGUF files may have, written, converted, compared."""

from pathlib import Path

import pytest
import torch
from gguf_kinds import KINDS
from gguf_models import tiny_model, write_gguf
from transformers import AutoModelForCausalLM

from lmi_cli.checkpoints import conversion
from lmi_cli.checkpoints.gguf_architectures import ARCHITECTURES
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.models.dequantized import dequantized


@pytest.mark.parametrize("name", KINDS)
def test_a_model_comes_back(name: str, tmp_path: Path, cache: Path) -> None:
    kind = KINDS[name]
    model = tiny_model(kind)
    path = write_gguf(tmp_path / "m.gguf", kind, model)
    (tmp_path / "out").mkdir()
    conversion.convert(path, tmp_path / "out")
    folder, _ = dequantized(ModelFiles("tiny", tmp_path / "out", "0", "gguf"))
    back = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    assert type(back) is type(model)
    ids = torch.arange(4, 44)[None] * 5 % 256 + 4
    with torch.inference_mode():
        expected, found = model(ids).logits, back(ids).logits
    difference = float((found - expected).abs().max())
    assert difference == 0


def test_every_architecture_is_written() -> None:
    assert {kind.architecture for kind in KINDS.values()} == set(ARCHITECTURES)
