"""What no decoder-only language model is, is refused by config.json alone, in one line."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from model_builders import model_folder
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto import configuration_auto, modeling_auto

from lmi_cli.checkpoints import model_types, validation
from lmi_cli.errors import ModelError
from lmi_cli.models.families import FAMILIES


def only_config(folder: Path, **config: Any) -> Path:
    """A folder in which nothing but the configuration has been downloaded yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        validation.check(folder)
    assert caught.value.message.startswith(f"{folder / 'config.json'}")
    assert "\n" not in caught.value.message and caught.value.hint
    return caught.value


KINDS = {
    "gpt2": "learned absolute positions",
    "opt": "learned absolute positions",
    "gpt_bigcode": "learned absolute positions",
    "gpt_neo": "learned absolute positions",
    "xglm": "adds absolute positions",
    "xlnet": "attention in a way of its own",
    "bert": "is an encoder,",
    "roberta": "is an encoder,",
    "modernbert": "is an encoder,",
    "deberta-v2": "is an encoder,",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "whisper": "encoder-decoder",
    "m2m_100": "encoder-decoder",
    "llava": "images or sound besides text",
    "qwen2_5_vl": "images or sound besides text",
    "mistral3": "images or sound besides text",
    "gemma3": "images or sound besides text",
    "llama4": "images or sound besides text",
    "musicgen": "writes sound",
    "moshi": "sound besides text",
    "blt": "reads bytes in patches",
    "vit": "no language model",
    "clip": "no language model",
    "wav2vec2": "no language model",
    "nonesuch": "not known to transformers",
}


@pytest.mark.parametrize(("kind", "said"), KINDS.items(), ids=KINDS)
def test_what_is_no_decoder_only_language_model(kind: str, said: str, tmp_path: Path) -> None:
    error = refusal(only_config(tmp_path, model_type=kind))
    assert kind in error.message and said in error.message
    assert error.exit_code == 4


def test_what_the_user_can_do(tmp_path: Path) -> None:
    text = {"model_type": "qwen3", "hidden_size": 64}
    error = refusal(only_config(tmp_path, model_type="llama", text_config=text))
    assert "text part (qwen3)" in error.message and ".gguf" in str(error.hint)
    assert "install -U transformers" in str(refusal(only_config(tmp_path, model_type="new")).hint)
    flagged = only_config(tmp_path, model_type="llama", is_encoder_decoder=True)
    assert "encoder-decoder" in refusal(flagged).message
    reward = ["LlamaForSequenceClassification"]
    error = refusal(only_config(tmp_path, model_type="llama", architectures=reward))
    assert "LlamaForSequenceClassification sorts texts" in error.message


def test_the_tables_are_those_of_transformers() -> None:
    found = model_types._tables()
    assert found is not None
    used = model_types._CAUSAL, model_types._MASKED, model_types._SOUND, "FOR_IMAGE_TEXT_TO_TEXT"
    for name in (*used, *model_types._ENCODER_DECODERS):
        assert found.models[name] == dict(getattr(modeling_auto, f"MODEL_{name}_MAPPING_NAMES"))
    known = configuration_auto.CONFIG_MAPPING_NAMES
    assert found.configurations.items() <= known.items()
    causal = found.models["FOR_CAUSAL_LM"]
    assert causal.keys() - found.configurations.keys() <= {"gpt-sw3"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_of_the_table_is_readable(name: str) -> None:
    model_types.require_readable(Path("config.json"), {"model_type": name})


@pytest.mark.parametrize("name", sorted(model_types.LEARNED_POSITIONS | {"ctrl", "xglm"}))
def test_absolute_positions_are_in_the_model(name: str) -> None:
    """The list is right: the model has a table with a row for each position."""
    config = AutoConfig.for_model(name)
    config.num_hidden_layers = 1
    most = 131
    config.max_position_embeddings = most
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    tables += [each for each in vars(model.base_model).values() if isinstance(each, torch.Tensor)]
    tables += list(model.buffers())
    assert any(most <= len(table) <= most + 4 for table in tables if table.dim() == 2)


@pytest.mark.parametrize("name", sorted(model_types.OWN_ATTENTION))
def test_attention_that_is_not_looked_up(name: str) -> None:
    found = find_spec(f"transformers.models.{name}.modeling_{name}")
    assert found is not None and found.origin is not None
    assert "ALL_ATTENTION_FUNCTIONS" not in Path(found.origin).read_text()


class TestCodeThatComesWithAModel:
    @pytest.mark.parametrize(
        ("kind", "named"),
        [
            ("mpt", {"AutoConfig": "configuration_mpt.MPTConfig",
                     "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"}),
            ("phi3", {"AutoConfig": "configuration_phi3.Phi3Config",
                      "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}),
            ("falcon", {"AutoConfig": "tiiuae/falcon-7b--configuration_falcon.FalconConfig",
                        "AutoModel": "tiiuae/falcon-7b--modeling_falcon.FalconModel"}),
            ("deepseek_v3", {"AutoModelForCausalLM":
                             "modeling_deepseek.DeepseekV3ForCausalLM"}),
        ],
    )  # fmt: skip
    def test_is_not_needed_where_transformers_has_it(
        self, kind: str, named: dict[str, str], tmp_path: Path
    ) -> None:
        validation.check(model_folder(tmp_path, model_type=kind, auto_map=named))

    @pytest.mark.parametrize(
        ("kind", "named"),
        [
            ("llama", {"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"}),
            ("llama", {"AutoConfig": "x.LlamaConfig", "AutoModel": "x.Other"}),
            ("llama", {"AutoConfig": ["x.LlamaConfig", "x.LlamaConfig"]}),
            ("llama", "x.LlamaConfig"),
            ("baichuan", {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}),
        ],
        ids=str,
    )
    def test_is_refused_otherwise(self, kind: str, named: Any, tmp_path: Path) -> None:
        error = refusal(model_folder(tmp_path, model_type=kind, auto_map=named))
        assert "(auto_map)" in error.message
        assert "never runs code" in str(error.hint)

    def test_is_refused_deeper_in_the_configuration(self, tmp_path: Path) -> None:
        named = {"AutoConfig": "x.LlamaConfig"}
        folder = model_folder(tmp_path, auto_map=named, quantization={"auto_map": named})
        assert "(auto_map)" in refusal(folder).message


def test_without_the_tables_nothing_is_refused_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_types, "_tables", lambda: None)
    model_types.require_readable(Path("config.json"), {"model_type": "bert"})
    assert not model_types.has_class({"model_type": "mpt", "auto_map": {"AutoModel": "x.MPTModel"}})


def test_neither_torch_nor_transformers_is_imported_for_a_refusal(tmp_path: Path) -> None:
    """By the program itself: so it takes half a second, not five."""
    document = tmp_path / "notes.txt"
    document.write_text("The sky is blue.\n")
    records = tmp_path / "own.jsonl"
    record = {"document": document.name, "question": "What is blue?", "pattern": "sky", "lines": 1}
    records.write_text(json.dumps(record))
    pickled = model_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    some = ("gpt2", "bert", "t5", "llava", "vit", "nonesuch")
    folders = [pickled, *(only_config(tmp_path / kind, model_type=kind) for kind in some)]
    program = (
        "import sys\n"
        "from lmi_cli.cli import app\n"
        "from lmi_cli.errors import ModelError\n"
        "_, document, records, *folders = sys.argv\n"
        "for folder in folders:\n"
        "    for command in (['qa', document, 'Why?'], ['eval', records, '--quiet']):\n"
        "        sys.argv = ['lmi', *command, '-m', folder]\n"
        "        try:\n"
        "            app.run()\n"
        "        except ModelError:\n"
        "            continue\n"
        "        sys.exit(folder)\n"
        "sys.exit(' '.join({'torch', 'transformers'} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(document), str(records), *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
