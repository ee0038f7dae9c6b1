"""Models whose weights are not what their configuration says: refused, with the tensor named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_model import save_model
from safetensors.torch import load_file, save_file

from lmi_cli.models import chat
from lmi_cli.native import choice

from .conftest import PROGRAM

pytestmark = pytest.mark.usefixtures("native")
Run = Callable[..., Any]
LAYER = "model.layers.1."


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the library in C could run, in bfloat16."""
    shape = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    return save_model(tmp_path_factory.mktemp("sound") / "m", **shape)


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model with other tensors or another configuration."""

    def change(tensors: dict[str, torch.Tensor], **config: Any) -> Path:
        folder = tmp_path / "m"
        shutil.copytree(sound, folder)
        path = folder / "model.safetensors"
        save_file(load_file(path) | tensors, path, {"format": "pt"})
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | config))
        return folder

    return change


SHAPES = {
    "embedding rows": ("model.embed_tokens.weight", (100, 128)),
    "embedding columns": ("model.embed_tokens.weight", (420, 64)),
    "head": ("lm_head.weight", (420, 160)),
    "query": (f"{LAYER}self_attn.q_proj.weight", (256, 128)),
    "query columns": (f"{LAYER}self_attn.q_proj.weight", (128, 96)),
    "key": (f"{LAYER}self_attn.k_proj.weight", (32, 128)),
    "value": (f"{LAYER}self_attn.v_proj.weight", (128, 128)),
    "output": (f"{LAYER}self_attn.o_proj.weight", (128, 64)),
    "output rows": (f"{LAYER}self_attn.o_proj.weight", (160, 128)),
    "gate": (f"{LAYER}mlp.gate_proj.weight", (32, 128)),
    "up": (f"{LAYER}mlp.up_proj.weight", (96, 128)),
    "up flat": (f"{LAYER}mlp.up_proj.weight", (64 * 128,)),
    "down": (f"{LAYER}mlp.down_proj.weight", (256, 64)),
    "down columns": (f"{LAYER}mlp.down_proj.weight", (128, 4096)),
    "norm": (f"{LAYER}input_layernorm.weight", (64,)),
    "second norm": (f"{LAYER}post_attention_layernorm.weight", (1, 128)),
    "last norm": ("model.norm.weight", (4,)),
    "empty": (f"{LAYER}mlp.down_proj.weight", (128, 0)),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("name", "shape"), SHAPES.values(), ids=SHAPES)
def test_a_wrong_shape_is_named(
    lmi: Run, document: Path, broken: Callable[..., Path], name: str, shape: Any, dtype: str
) -> None:
    folder = broken({name: torch.zeros(shape)})
    result = lmi("qa", document, "Why?", "-m", folder, "--dtype", dtype, "-n", 2)
    assert (result.code, result.out) == (4, "")
    assert name in result.err
    assert str(list(shape)) in result.err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", sorted({name for name, _ in SHAPES.values()}))
def test_a_weight_that_is_not_finite_is_named(
    lmi: Run, document: Path, broken: Callable[..., Path], sound: Path, name: str, value: float
) -> None:
    tensor = load_file(sound / "model.safetensors")[name]
    tensor.view(-1)[-1] = value
    result = lmi("qa", document, "Why?", "-m", broken({name: tensor}), "-n", 2)
    assert (result.code, result.out) == (4, "")
    assert f"tensor {name} contains values that are not finite" in result.err


def test_the_sound_model_is_run_in_c(lmi: Run, document: Path, sound: Path) -> None:
    assert lmi("qa", document, "Why?", "-m", sound, "-n", 2, "--dtype", "bfloat16").code == 0
    assert choice.computed_by(torch.bfloat16, torch.device("cpu")).startswith("C (")


def test_a_weight_too_large_for_the_dtype_is_named(
    lmi: Run, document: Path, broken: Callable[..., Path]
) -> None:
    folder = broken({"model.norm.weight": torch.full((128,), 1e6)})
    asked = ("qa", document, "Why?", "-m", folder, "-n", 2, "--dtype")
    assert "model.norm.weight contains values that are not finite in torch.float16" in (
        lmi(*asked, "float16").err
    )
    assert lmi(*asked, "float32").code == 0


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": 3, "num_key_value_heads": 2},
        {"num_attention_heads": 4, "num_key_value_heads": 3},
        {"num_attention_heads": 4, "head_dim": 64},
        {"hidden_size": 160},
        {"intermediate_size": 96},
        {"vocab_size": 400},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 0},
        {"layer_types": 5},
        {"layer_types": {}},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(
    lmi: Run, document: Path, broken: Callable[..., Path], config: dict[str, Any]
) -> None:
    result = lmi("qa", document, "Why?", "-m", broken({}, **config), "-n", 2)
    assert (result.code, result.out) == (4, "")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_tokenizer_with_more_ids_than_there_are_embeddings(
    lmi: Run, document: Path, broken: Callable[..., Path], dtype: str
) -> None:
    few = {name: torch.zeros(40, 128) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    folder = broken(few, vocab_size=40)
    for asked in (("qa", document, "Why?", "-n", 2), ("perplexity", document)):
        result = lmi(*asked, "-m", folder, "--dtype", dtype)
        assert (result.code, result.out) == (4, "")
        assert "the model has only 40 embeddings" in result.err


def edited(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# A process begins with the peak memory of the one that starts it, so a small one does.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.mark.slow
def test_no_more_is_allocated_than_is_stored(document: Path, cache: Path, tmp_path: Path) -> None:
    """A configuration of 400 kilobytes of weights that describes gigabytes of them."""
    folder = save_model(tmp_path / "m")
    edited(folder, "config.json", model_type="gemma2", head_dim=8, intermediate_size=2**20)
    arguments = ("qa", document, "Why?", "-m", folder, "-n", 2, "--dtype", "float32")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *PROGRAM, *map(str, arguments)],
        env=os.environ | {"LMI_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 4
    peak = int(done.stdout.split()[-1])
    assert peak < 2**20  # KiB; transformers alone takes half of that


def test_a_regular_expression_that_gives_up(lmi: Run, tmp_path: Path) -> None:
    """The tokenizers library panics then, which is no Exception."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    stages = [split | {"invert": False}, bytes_ | {"use_regex": False}]
    sequence = {"type": "Sequence", "pretokenizers": stages}
    folder = edited(save_model(tmp_path / "m"), "tokenizer.json", pre_tokenizer=sequence)
    (tmp_path / "a.txt").write_text("a" * 40 + "!\n")
    result = lmi("perplexity", tmp_path / "a.txt", "-m", folder)
    assert (result.code, result.out) == (4, "")
    assert "the tokenizer of the model fails" in result.err


def test_a_vocabulary_with_an_id_beyond_all_embeddings(
    lmi: Run, document: Path, tmp_path: Path
) -> None:
    """Such an id once took minutes and gigabytes."""
    folder = save_model(tmp_path / "m")
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    stored["model"]["vocab"]["zz"] = 2**31
    path.write_text(json.dumps(stored))
    result = lmi("qa", document, "Why?", "-m", folder)
    assert (result.code, result.out) == (4, "")
    assert "the tokenizer has the id 2,147,483,648" in result.err


@pytest.mark.parametrize("where", ["first start", "later"])
def test_a_template_without_end(
    lmi: Run, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(chat, "_MOST_SECONDS", 0.5)
    folder = save_model(tmp_path / "m")
    if where == "later":
        assert lmi("qa", document, "Why?", "-m", folder, "-n", 1).code == 0
    loop = "{% for i in range(99999) %}"
    edited(folder, "tokenizer_config.json", chat_template=loop * 3 + "{% endfor %}" * 3)
    result = lmi("qa", document, "Why?", "-m", folder, "-n", 1)
    assert (result.code, result.out) == (4, "")
    assert "takes longer than" in result.err


OF_TORCH = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    "error",
    [RuntimeError(OF_TORCH), torch.OutOfMemoryError("CUDA out of memory"), MemoryError()],
    ids=["cpu", "cuda", "python"],
)
@pytest.mark.parametrize(
    "place",
    [
        "models.weights.Weights.__getitem__",
        "models.decoder.Decoder.logits_in_slices",
        "models.decoder.Decoder.hidden",
        "cache.buffer.SlidingBuffer.clone",
    ],
)
def test_memory_that_runs_out_anywhere_is_no_bug(
    lmi: Run,
    document: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"lmi_cli.{place}", fail)
    result = lmi("qa", document, "Why?", "-m", sound, "-n", 2)
    assert (result.code, result.out) == (5, "")
    assert "Traceback" not in result.err
