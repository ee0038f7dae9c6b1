"""What is said of a model without its weights is what loading it would say."""

import json
from dataclasses import asdict
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
from lmi_cli.models.facts import LayerFacts, ModelFacts, names_model
from lmi_cli.models.gguf_facts import facts_of_gguf
from lmi_cli.models.known import known_gguf, known_model
from lmi_cli.models.layer_facts import layers_of
from lmi_cli.models.preparing import facts_of
from lmi_cli.models.trained_length import TrainedLength


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gemma2", "gemma3_text", "mistral", "phi"])
def test_facts_are_those_of_the_loaded_model(name: str, tmp_path: Path) -> None:
    model = tiny_model(name).float()
    model.save_pretrained(tmp_path)
    facts = facts_of(tmp_path, model.config)
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


def test_values_may_be_narrower_than_keys(tmp_path: Path) -> None:
    model = tiny_model("deepseek_v3").float()
    model.save_pretrained(tmp_path)
    facts = facts_of(tmp_path, model.config)
    assert (facts.kv_heads, facts.head_dim, facts.value_dim) == (4, 8 + 4, 6)
    assert facts.layer_bytes_per_token("float32") == 4 * (12 + 6) * 4
    assert ModelFacts.from_json(json.loads(json.dumps(asdict(facts)))) == facts


def test_a_gguf_file_before_and_after_its_conversion(tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    header, converted = known_gguf(path), known_model(resolve.resolve(str(path)))
    assert header.files.identity == converted.files.identity
    assert header.facts == facts_of_gguf(path)
    for name in ("family", "trained_length", "native_windows", "kv_heads", "head_dim"):
        assert getattr(header.facts, name) == getattr(converted.facts, name)
    assert header.facts.vocabulary == converted.facts.vocabulary
    assert header.facts.dtype == converted.facts.dtype
    with pytest.raises(RuntimeError, match="not been converted"):
        _ = header.tokenizer


def test_several_files_of_weights(tmp_path: Path) -> None:
    model = tiny_model("llama").float()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    facts = facts_of(tmp_path, model.config)
    assert facts.weights == sum(parameter.numel() for parameter in model.parameters())


def test_a_damaged_tokenizer(tmp_path: Path, cache: Path) -> None:
    folder = save_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"):
        known_model(ModelFiles("x", folder, "y", "folder"))


def test_what_names_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "x.gguf").write_bytes(b"")
    assert names_model("SmolLM2-135M-Instruct")
    assert names_model(str(tmp_path / "x.gguf"))
    assert names_model(str(save_model(tmp_path / "m")))
    for other in (str(tmp_path), str(tmp_path / "no.gguf"), "-", "", "a\0b", "x" * 5000):
        assert not names_model(other)


def test_what_each_layer_is() -> None:
    def described(name: str, *tensors: str) -> list[LayerFacts]:
        return list(layers_of(tiny_model(name).config, tensors))

    assert described("mpt") == [LayerFacts("alibi")] * 2
    assert described("smollm3") == [LayerFacts("rope"), LayerFacts("none")]
    assert described("mistral-sliding") == [LayerFacts("rope", 12)] * 2
    sinks = [f"model.layers.{layer}.self_attn.sinks" for layer in range(2)]
    assert [layer.sinks for layer in described("gpt_oss", *sinks)] == [True, True]
    assert [layer.sinks for layer in described("llama", sinks[1])] == [False, True]
    assert all(layer.recurrent and layer.attends for layer in described("falcon_h1"))


def test_scaling_in_the_header_of_a_gguf_file(tmp_path: Path) -> None:
    def length(kind: str, original: int) -> TrainedLength | None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", kind)
            writer.add_float32("llama.rope.scaling.factor", 4.0)
            writer.add_uint32("llama.rope.scaling.original_context_length", original)

        return facts_of_gguf(tiny_gguf(tmp_path / "m.gguf", extra=extra)).length

    assert length("none", 32) == TrainedLength(128)
    assert length("yarn", 128) == TrainedLength(128, 128, "yarn", 512)
    assert length("yarn", 32) == TrainedLength(128, 32, "yarn")


def test_what_no_header_of_a_model_says(tmp_path: Path) -> None:
    """Each is refused in one line, before anything is converted."""

    def refused(extra: Any, message: str, **values: Any) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            facts_of_gguf(tiny_gguf(tmp_path / "m.gguf", extra=extra, **values))
        assert "\n" not in caught.value.message

    def nothing(writer: Any) -> None:
        pass

    refused(nothing, "'gpt2': learned absolute positions", architecture="gpt2")
    refused(nothing, "splits text in an unknown way", pre="nonesuch")
    refused(nothing, "holds no tensor of layer 2", block_count=3)
    refused(nothing, "a model without layers", block_count=0)
    refused(lambda writer: writer.add_float32("llama.x", float("nan")), r"its llama\.x is nan")
    refused(
        lambda writer: writer.add_int32("llama.attention.sliding_window", -5),
        "its attention.sliding_window of -5 is not between",
    )

    def words(writer: Any) -> None:
        writer.add_string("llama.rope.scaling.type", "yarn")
        writer.add_float32("llama.rope.scaling.factor", 4.0)
        writer.add_uint32("llama.rope.scaling.original_context_length", 32)
        writer.add_string("llama.rope.scaling.attn_factor", "large")

    refused(words, "a value of its header is not of the kind it should be")
