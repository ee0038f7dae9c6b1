"""Models whose weights are not what their configuration says: refused, with the tensor named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_model import save_model
from safetensors.torch import load_file, save_file

from lmi_cli.native import choice

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
    assert choice.computed_by(torch.bfloat16, torch.device("cpu")) == "C"


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
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(
    lmi: Run, document: Path, broken: Callable[..., Path], config: dict[str, int]
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
