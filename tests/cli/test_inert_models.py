"""Odd files beside the weights of a model: none of them is run, and none of them is an obstacle."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_model import save_endless_model, save_model

from .test_scores import edit

Run = Callable[..., Any]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_beside_the_weights_is_never_opened(
    lmi: Run, document: Path, tmp_path: Path
) -> None:
    """Neither by the first start, which asks transformers, nor by the second."""
    folder, marker = save_model(tmp_path / "m"), tmp_path / "ran"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    for _ in range(2):
        assert lmi("qa", document, "Why?", "-m", folder, "-n", 2).code == 0
    assert not marker.exists()


def test_a_document_cannot_agree_to_run_code(lmi: Run, tmp_path: Path) -> None:
    """Asked whether code may run, transformers would read the answer from standard input."""
    folder, marker = save_model(tmp_path / "m"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        edit(name, auto_map={"AutoConfig": "evil.X", "AutoTokenizer": "evil.X"})(folder)
    result = lmi("qa", "-", "Why?", "-m", folder, stdin=b"y\ny\nyes\n")
    assert (result.code, result.out) == (4, "")
    assert not marker.exists()


def test_code_that_is_not_needed_is_not_run(lmi: Run, document: Path, tmp_path: Path) -> None:
    """Transformers has classes of these names, and takes its own, where weights are spread too."""
    folder, marker = save_model(tmp_path / "m"), tmp_path / "ran"
    for name in ("configuration_llama", "modeling_llama"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    named = {
        "AutoConfig": "configuration_llama.LlamaConfig",
        "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM",
    }
    edit("config.json", auto_map=named)(folder)
    for more in ((), ("--device-map", "auto")):
        result = lmi("qa", document, "Why?", "-m", folder, "-n", 2, *more, stdin=b"y\n")
        assert result.code == 0, result.err
    assert not marker.exists()


def test_an_attention_that_the_configuration_names_is_not_used(
    lmi: Run, model: str, document: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "m")
    edit(
        "config.json",
        _attn_implementation="flash_attention_2",
        attn_implementation="flex_attention",
        architectures=["Evil"],
    )(folder)
    asked = ("perplexity", document, "--dtype", "float32")
    given, plain = lmi(*asked, "-m", folder), lmi(*asked, "-m", model)
    assert (given.code, plain.code) == (0, 0), given.err
    assert given.out == plain.out


@pytest.mark.parametrize("eos", ["x", [[1]], {"a": 1}, 10**9, -1, 1.5, None], ids=str)
def test_odd_end_tokens_are_refused_or_harmless(
    lmi: Run, document: Path, tmp_path: Path, eos: object
) -> None:
    folder = save_model(tmp_path / "m")
    edit("generation_config.json", eos_token_id=eos)(folder)
    result = lmi("qa", document, "Why?", "-m", folder, "-n", 2)
    assert result.code in (0, 4), result.err
    assert "Traceback" not in result.err


def test_without_an_end_token_an_answer_ends_at_its_limit(
    lmi: Run, document: Path, tmp_path: Path
) -> None:
    folder = save_endless_model(tmp_path / "m")
    asked = ("qa", document, "Why?", "-m", folder, "-n", 300, "--temperature", 1)
    (answer,) = json.loads(lmi(*asked, "--json").out)["answers"]
    assert (answer["tokens"], answer["finish_reason"]) == (300, "length")


def test_more_embeddings_than_tokens(lmi: Run, document: Path, tmp_path: Path) -> None:
    """An id without a token may be drawn, and is no text."""
    folder = save_model(tmp_path / "m", vocab_size=1024)
    asked = ("qa", document, "Why?", "-m", folder, "-n", 8, "--temperature", 5)
    assert lmi(*asked).code == 0
