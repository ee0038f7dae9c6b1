"""What is said of a model without its weights is what loading it would say."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_model import save_model
from model_builders import tiny_gguf
from tiny_models import tiny_model

from lmi_cli.checkpoints import resolve
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.errors import ModelError
from lmi_cli.models import families
from lmi_cli.models.facts import facts_of, facts_of_gguf, names_model, tokenizer_of
from lmi_cli.models.preparing import prepare_tokenizer

TEXT = "It's 12 o'clock:\n\n    naïve <|im_end|> <tool> 中文"


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gemma2", "gemma3_text", "mistral", "phi"])
def test_facts_are_those_of_the_loaded_model(name: str, tmp_path: Path) -> None:
    model = tiny_model(name).float()
    model.save_pretrained(tmp_path)
    facts = facts_of(ModelFiles("x", tmp_path, "y", "folder"))
    config: Any = model.config
    layers = range(config.num_hidden_layers)
    assert facts.native_windows == tuple(families.native_window(config, i) for i in layers)
    assert facts.trained_length == config.max_position_embeddings
    assert facts.family == config.model_type
    assert facts.kv_heads == config.num_key_value_heads
    assert facts.head_dim == 8
    stored = {parameter.data_ptr(): parameter.numel() for parameter in model.parameters()}
    assert facts.weights == sum(stored.values())
    assert (facts.dtype, facts.weights_bytes("float32")) == ("float32", 4 * facts.weights)
    assert facts.layer_bytes_per_token("bfloat16") == 4 * facts.kv_heads * facts.head_dim


def test_a_gguf_file_before_and_after_its_conversion(tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    header, converted = facts_of_gguf(path), facts_of(resolve.resolve(str(path)))
    for name in ("identity", "family", "trained_length", "native_windows", "kv_heads", "head_dim"):
        assert getattr(header, name) == getattr(converted, name)
    assert (header.vocabulary, header.dtype) == (converted.vocabulary, converted.dtype)


def test_several_files_of_weights(tmp_path: Path) -> None:
    model = tiny_model("llama").float()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    facts = facts_of(ModelFiles("x", tmp_path, "y", "folder"))
    assert facts.weights == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend", None])
def test_the_tokenizer_is_the_one_that_a_run_uses(tmp_path: Path, named: str | None) -> None:
    folder = save_model(tmp_path / "m")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": named}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value}))
    light, full = tokenizer_of(folder), prepare_tokenizer(folder).build(folder)[0]
    assert light.encode(TEXT).same_as(full.encode(TEXT))


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        tokenizer_of(folder)


def test_what_names_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "x.gguf").write_bytes(b"")
    assert names_model("SmolLM2-135M-Instruct")
    assert names_model(str(tmp_path / "x.gguf"))
    assert names_model(str(save_model(tmp_path / "m")))
    for other in (str(tmp_path), str(tmp_path / "no.gguf"), "-", "", "a\0b", "x" * 5000):
        assert not names_model(other)
