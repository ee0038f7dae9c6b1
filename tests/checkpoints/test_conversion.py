"""What a conversion of a GGUF file keeps, and what can go wrong apart from the file itself."""

import json
from pathlib import Path

import pytest
import safetensors.torch
from gguf import GGUFReader, quants
from gguf_kinds import KINDS
from gguf_models import tiny_model, write_gguf
from safetensors import SafetensorError

from lmi_cli.checkpoints import conversion
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.errors import ResourceError
from lmi_cli.models.dequantized import dequantized
from lmi_cli.models.weights import Weights


def test_a_full_disk(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that writes the weights says so in words only."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        conversion.convert(tiny_gguf, tmp_path)


def test_conversion_keeps_blocks_rounds_once_and_ties_once(
    tiny_gguf: Path, converted: Path, cache: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    saved = load_file(converted / "model.safetensors")
    assert "lm_head.weight" not in saved
    kinds = json.loads((converted / "blocks.json").read_bytes())
    assert set(kinds.values()) == {"Q8_0"}
    for name, weight in saved.items():
        assert weight.dtype == (torch.uint8 if name in kinds else torch.bfloat16), name
    options = {"attn_implementation": "eager", "trust_remote_code": False, "dtype": torch.float32}
    exact = AutoModelForCausalLM.from_pretrained(
        str(tiny_gguf.parent), gguf_file=tiny_gguf.name, **options
    ).state_dict()
    folder, _ = dequantized(ModelFiles("tiny", converted, "0", "gguf"))
    loaded = AutoModelForCausalLM.from_pretrained(str(folder), **options).state_dict()
    assert loaded.keys() == exact.keys()
    for name, weight in exact.items():
        assert torch.equal(loaded[name], weight.to(torch.bfloat16).float()), name
    wide = Weights(converted, torch.float32)
    for name, weight in wide.items():
        # Only what is in no blocks has been rounded.
        expected = exact[name] if name in kinds else exact[name].to(torch.bfloat16).float()
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("blocks", ["MXFP4", "Q8_0"])
def test_experts_in_blocks(blocks: str, tmp_path: Path) -> None:
    """As in files of gpt-oss, all experts of a layer are one tensor of three dimensions."""
    import torch
    from safetensors.torch import load_file

    kind = KINDS["gpt-oss"]
    experts = {"ffn_gate_exps.weight": blocks, "ffn_up_exps.weight": blocks}
    path = write_gguf(tmp_path / "m.gguf", kind, tiny_model(kind), experts)
    (tmp_path / "out").mkdir()
    conversion.convert(path, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for tensor in GGUFReader(path).tensors:
        if not tensor.name.endswith(tuple(experts)):
            continue
        assert tensor.tensor_type.name == blocks and tensor.data.ndim == 3
        layer, start = tensor.name.split(".")[1], int("_up_" in tensor.name)
        expected = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type))
        stored = found[f"model.layers.{layer}.mlp.experts.gate_up_proj"][:, :, start::2]
        assert torch.equal(stored, expected.transpose(1, 2).bfloat16())
