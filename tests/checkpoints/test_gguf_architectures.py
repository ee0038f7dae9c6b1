"""A tiny model of every architecture that GGUF files may have, written, converted, compared."""

from dataclasses import replace
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
from lmi_cli.models.families import Family
from lmi_cli.models.gguf_facts import facts_of_gguf
from lmi_cli.models.preparing import facts_of

FACTS = (
    "family", "trained_length", "native_windows", "heads", "kv_heads", "head_dim", "hidden",
    "vocabulary", "tied", "length", "recurrent_bytes",
)  # fmt: skip


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
    before, after = facts_of_gguf(path), facts_of(tmp_path / "out", back.config, Family())
    for fact in FACTS:
        assert getattr(before, fact) == getattr(after, fact), fact
    for header, layer in zip(before.every_layer, after.every_layer, strict=True):
        assert replace(layer, positions=header.positions) == header
        assert header.attends == layer.attends


def test_every_architecture_is_written() -> None:
    assert {kind.architecture for kind in KINDS.values()} == set(ARCHITECTURES)
