"""Blocks of a GGUF file from the file to the logits, and packed weights in the cache."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from model_builders import tiny_gguf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_models import random_ids
from transformers import AutoModelForCausalLM

from lmi_cli.checkpoints import cached, resolve
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.checkpoints.tensors import stored_tensors
from lmi_cli.engine.engine import Engine
from lmi_cli.errors import ModelError, ResourceError, UsageError
from lmi_cli.methods import Full, LMInfinite, Method
from lmi_cli.models import packed
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.dequantized import dequantized
from lmi_cli.models.known import known_gguf
from lmi_cli.models.load import load
from lmi_cli.models.placement import Placement
from lmi_cli.models.weights import Weights
from lmi_cli.native import cpu, selfcheck

CPU = {"device": "cpu"}
WIDE = {"hidden": 256, "heads": 4, "kv_heads": 2, "ff": 256}


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> ModelFiles:
    return resolve.resolve(str(tiny_gguf(tmp_path / "tiny.gguf", **WIDE)))


def logits(lm: Any, chunk: int, method: Method | None = None) -> torch.Tensor:
    ids = random_ids(40)
    engine = Engine(lm, method or LMInfinite(9, 3, 13), chunk)
    state = engine.start()
    passes = [engine.forward(state, ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
    return lm.logits(torch.cat(passes)).double()


@pytest.mark.parametrize("chunk", [1, 9])
@pytest.mark.parametrize(
    "kinds",
    [("Q4_0",), ("Q4_1",), ("Q5_0", "Q8_0"), ("Q5_1", "F16", "Q4_1"), ("Q8_0",), ("Q6_K", "Q4_K"),
     ("Q5_K", "Q6_K", "F32")],
    ids=" ".join,
)  # fmt: skip
def test_blocks_are_the_model_with_the_weights_of_the_file(
    kinds: tuple[str, ...], chunk: int, cache: Path, tmp_path: Path, native: None
) -> None:
    """As near to float64 as the same weights in bfloat16 are, or nearer."""
    path = tiny_gguf(tmp_path / "tiny.gguf", kinds=kinds, **WIDE)
    files = resolve.resolve(str(path))
    stored = {tensor.dtype for tensor in stored_tensors(files.folder).values()}
    assert stored == {kind for kind in kinds if not kind.startswith("F")} | {"BF16"}
    found = load(files, Placement(**CPU))
    assert (found.lm.quantize, found.known.precision.name) == ("blocks", "bfloat16+blocks")
    rounded = load(files, Placement(quantize="none", **CPU)).lm
    assert found.known.blueprint is not None
    exact = Decoder(found.known.blueprint, Weights(files.folder, torch.float64))
    truth = logits(exact, chunk)
    usual = (logits(rounded, chunk) - truth).abs()
    error = (logits(found.lm, chunk) - truth).abs()
    assert error.mean() <= 1.2 * usual.mean()
    assert error.max() <= 2 * usual.max()
    assert found.lm.weights_bytes < rounded.weights_bytes
    if len(kinds) == 1:  # otherwise the two inner projections of an MLP may be of two kinds
        assert found.lm.weights_bytes == pytest.approx(found.known.facts.block_bytes, rel=0.25)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gemma3", "phi3"])
def test_blocks_of_other_architectures(
    architecture: str, cache: Path, tmp_path: Path, native: None
) -> None:
    """Weights are those that transformers reads from the file, and so are the logits."""
    sizes = WIDE | {"layers": 6, "kinds": ("Q4_K", "Q8_0", "Q4_K")}
    # Heads as large as those of all models, of which transformers does not read all it needs.
    heads = {"qwen3": 2, "gemma2": 1, "gemma3": 1}.get(architecture)
    sizes |= {} if heads is None else {"heads": heads, "kv_heads": 1}
    path = tiny_gguf(tmp_path / "tiny.gguf", architecture=architecture, **sizes)
    files = resolve.resolve(str(path))
    known = known_gguf(path)
    found = load(files, Placement(**CPU))
    assert isinstance(found.lm, Decoder)
    assert found.lm.quantize == known.precision.quantize == "blocks"
    assert known.facts.native_windows == found.known.facts.native_windows
    stock = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
    )
    ids = random_ids(40)
    with torch.inference_mode():
        expected = stock(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).logits[0]
    assert found.known.blueprint is not None
    exact = Decoder(found.known.blueprint, Weights(files.folder, torch.float32))
    scale = expected.abs().max()
    assert (logits(exact, 40, Full()) - expected).abs().max() <= 1e-4 * scale
    rounded = load(files, Placement(quantize="none", **CPU)).lm
    for chunk in (1, 9):
        usual, error = (
            (logits(lm, chunk, Full()) - expected).abs().mean() for lm in (rounded, found.lm)
        )
        assert error <= 1.2 * usual


def test_later_starts_map_what_was_packed(model: ModelFiles, native: None) -> None:
    first = load(model, Placement(**CPU)).lm
    path = cached.packed_file(model.identity, "blocks-1")
    assert path is not None and path.exists()
    written = path.stat().st_mtime_ns
    again = load(model, Placement(**CPU)).lm
    assert path.stat().st_mtime_ns == written
    assert torch.equal(logits(first, 9), logits(again, 9))
    for linear in packed.load(model, "blocks").values():
        for part in linear.parts:
            assert part.codes.data_ptr() % 64 == 0


@pytest.mark.parametrize("damage", ["shorter", "a flipped bit", "no record"])
def test_damaged_packed_weights_are_packed_again(
    damage: str, model: ModelFiles, cache: Path, native: None
) -> None:
    first = load(model, Placement(**CPU)).lm
    path = cached.packed_file(model.identity, "blocks-1")
    assert path is not None
    data = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(data[:-100])
    elif damage == "a flipped bit":
        path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    else:
        for record in path.parent.glob("*.json"):
            record.unlink()
    assert packed.load(model, "blocks") == {}
    repaired = load(model, Placement(**CPU)).lm
    assert torch.equal(logits(first, 9), logits(repaired, 9))
    os.utime(path)  # only the date has changed
    assert packed.load(model, "blocks")


def test_a_cache_that_cannot_be_written(
    model: ModelFiles, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "packed_file", lambda *_: None)
    loaded = load(model, Placement(**CPU))
    assert loaded.lm.quantize == "blocks"
    assert packed.load(model, "blocks") == {}


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_bfloat16_that_is_rounded_is_packed_too(
    quantize: str, model: ModelFiles, native: None
) -> None:
    placement = Placement(quantize=quantize, **CPU)
    first, again = load(model, placement).lm, load(model, placement).lm
    assert (first.quantize, again.quantize) == (quantize, quantize)
    assert torch.equal(logits(first, 9), logits(again, 9))


def test_removing_a_model_removes_its_packed_weights(model: ModelFiles, native: None) -> None:
    load(model, Placement(**CPU))
    path = cached.packed_file(model.identity, "blocks-1")
    assert path is not None
    (listed,) = [m for m in cached.list_models() if m.folder is not None]
    assert listed.size_bytes > path.stat().st_size
    orphan = cached.packed_file("0" * 64, "int4-1")
    assert orphan is not None
    orphan.write_bytes(b"1234")
    assert cached.remove(listed.name) == listed.size_bytes
    assert not path.exists() and orphan.exists()
    (listed,) = [m for m in cached.list_models() if m.folder is not None]
    assert (listed.name, listed.size_bytes) == (orphan.stem, 4)
    assert cached.remove(listed.name) == 4
    assert not orphan.exists()


def test_blocks_are_asked_of_a_model_that_has_none(
    cache: Path, tmp_path: Path, native: None
) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kinds=("F16",), **WIDE)
    files = resolve.resolve(str(path))
    assert load(files, Placement(**CPU)).lm.quantize == "none"
    with pytest.raises(UsageError, match="not made of blocks"):
        load(files, Placement(quantize="blocks", **CPU))


def test_without_the_library_blocks_become_the_dtype(model: ModelFiles) -> None:
    """The tests do without the library in C, unless they ask for it."""
    loaded = load(model, Placement(**CPU))
    assert loaded.lm.quantize == "none"
    assert loaded.lm.dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [{"no.such.tensor": "Q8_0"}, {"model.norm.weight": "Q8_0"}, {"model.embed_tokens.weight": "Q9"},
     {"model.embed_tokens.weight": "Q4_K"}, {"model.embed_tokens.weight": 7}],
    ids=str,
)  # fmt: skip
def test_a_list_of_blocks_that_lies(change: dict[str, Any], model: ModelFiles) -> None:
    path = model.folder / "blocks.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="cannot consist of blocks"):
        stored_tensors(model.folder)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q6_K"])
def test_a_scale_that_is_not_finite_is_refused(
    kind: str, cache: Path, tmp_path: Path, native: None
) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kinds=(kind,), **WIDE)
    data = bytearray(path.read_bytes())
    size = {"Q4_0": 18, "Q4_1": 20, "Q6_K": 210}[kind]
    found = gguf.GGUFReader(path).get_tensor(0)
    start = int(found.data_offset) + {"Q4_0": 0, "Q4_1": 2, "Q6_K": 208}[kind] + 3 * size
    data[start : start + 2] = np.array(np.nan, np.float16).tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="not finite"):
        load(resolve.resolve(str(path)), Placement(**CPU))


def test_a_tensor_of_no_blocks(model: ModelFiles) -> None:
    path = model.folder / "model.safetensors"
    tensors = load_file(path)
    for shape in ((0, 34), (3, 0)):
        save_file(tensors | {"model.embed_tokens.weight": torch.empty(shape).byte()}, path)
        with pytest.raises(ModelError, match="cannot consist of blocks"):
            stored_tensors(model.folder)


@pytest.mark.parametrize("extra", ["blk.0.attn_q_norm.weight", "blk.2.attn_norm.weight"])
def test_a_tensor_that_the_header_does_not_describe(
    extra: str, cache: Path, tmp_path: Path
) -> None:
    path = tiny_gguf(
        tmp_path / "tiny.gguf",
        extra=lambda writer: writer.add_tensor(extra, np.ones(256, np.float32)),
        **WIDE,
    )
    with pytest.raises(ModelError, match=f"without the tensor {extra}"):
        resolve.resolve(str(path))


def test_packed_weights_of_another_shape_are_not_used(model: ModelFiles, native: None) -> None:
    first = load(model, Placement(**CPU)).lm
    linears = packed.load(model, "blocks")
    output = linears["model.layers.0.output"]
    assert packed.save(model, "blocks", linears | {"embedding": output})
    again = load(model, Placement(**CPU)).lm
    assert torch.equal(logits(first, 9), logits(again, 9))
    assert packed.load(model, "blocks")["embedding"].rows == again.vocab_size


def test_a_full_disk_is_no_place_for_packed_weights(
    model: ModelFiles, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr(packed.shutil, "disk_usage", lambda folder: full)
    loaded = load(model, Placement(**CPU))
    assert loaded.lm.quantize == "blocks"
    assert loaded.notes == ("packed weights cannot be cached, so every start packs them again",)


def test_a_library_that_computes_wrongly_leaves_the_model_to_torch(
    model: ModelFiles, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "wrong_kernels", lambda: ["linear"])
    loaded = load(model, Placement(**CPU))
    assert loaded.lm.quantize == "none"
    assert loaded.known.precision.quantize == "none"
    (note,) = loaded.notes
    assert "computes wrongly (linear), so torch computes" in note
    with pytest.raises(UsageError, match="weights of few bits"):
        load(model, Placement(quantize="blocks", **CPU))


def test_a_processor_with_a_number_is_a_processor(model: ModelFiles, native: None) -> None:
    assert load(model, Placement(device="cpu:0")).lm.quantize == "blocks"


def test_weights_on_several_devices_are_not_computed_in_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: False)
    monkeypatch.setattr("lmi_cli.models.placement.has_accelerator", lambda: False)
    for placement, expected in (
        (Placement(), "bfloat16+blocks"),
        (Placement(max_memory={"cpu": "8GiB"}), "float32"),
        (Placement(device_map="auto", offload_folder=Path("there")), "float32"),
        (Placement(device_map="auto"), "bfloat16+blocks"),  # there is but one device
        (Placement(dtype="float32"), "float32"),
        (Placement(quantize="none"), "bfloat16"),
    ):
        found = placement.precision("bfloat16", in_c=True, has_blocks=True)
        assert found.name == expected
    assert Placement().precision("bfloat16", has_blocks=True).name == "float32"


def test_the_stock_model_has_the_same_weights(
    model: ModelFiles, native: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, notes = dequantized(model)
    assert folder.parent == cache / "models" and notes == ()
    (listed,) = [m for m in cached.list_models() if m.folder == model.folder]
    assert dequantized(model) == (folder, ())
    cached.remove(listed.name)
    assert not folder.exists()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    again = resolve.resolve(str(next(model.folder.parents[2].glob("tiny.gguf"))))
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        dequantized(again)
