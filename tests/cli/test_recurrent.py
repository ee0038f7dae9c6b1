"""Models with recurrent layers through the commands: evidence by words, their state, the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmi_cli.cache import statefile as container

Run = Callable[..., Any]
QUESTION = "Where does the lighthouse keeper sleep?"
SENTENCE = "The lighthouse keeper will sleep under the stairs."


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Beyond the trained length of a Mamba, with one sentence that says something."""
    lines = [f"{number}: The grass is green. The sky is blue.\n\n" for number in range(200)]
    lines.insert(120, SENTENCE + "\n\n")
    path = tmp_path / "book.txt"
    path.write_text("".join(lines))
    return path


def test_evidence_is_found_by_words_alone(lmi: Run, recurrent_model: str, book: Path) -> None:
    result = lmi("qa", book, QUESTION, "-m", recurrent_model, "-n", 3)
    assert result.code == 0, result.err
    assert "best first (by shared words alone, as the model has no attention):" in result.err
    assert SENTENCE in result.err
    assert "searched by their words; the model reads only what they find" in result.err
    assert "the model answered from passages of" in result.err

    result = lmi("find", book, QUESTION, "-m", recurrent_model, "-n", 1)
    assert result.code == 0, result.err
    assert SENTENCE in result.out
    assert "places were found by shared words alone" in result.err

    dry = lmi("qa", book, QUESTION, "-m", recurrent_model, "--dry-run")
    assert "searched by its words" in dry.out
    assert "nothing is read but the passages that are found by words" in dry.out


def test_a_state_file_is_small_and_answers_as_a_reading_does(
    lmi: Run, recurrent_model: str, book: Path, tmp_path: Path
) -> None:
    path, half = tmp_path / "book.lmi", tmp_path / "half.txt"
    text = book.read_text()
    half.write_text(text[: len(text) // 2])
    assert lmi("read", half, "-m", recurrent_model, "-o", path).code == 0
    asked = (QUESTION, "-n", 4, "--json", "--answer-from", "window")
    first = _carried(path)
    (tmp_path / "rest.txt").write_text(text[len(text) // 2 :])
    result = lmi("read", "--append", path, tmp_path / "rest.txt")
    assert result.code == 0, result.err
    assert _carried(path) == first, "the state grows"
    result = lmi("read", book, "-m", recurrent_model, "-o", path)
    assert result.code == 0, result.err
    stored = json.loads(lmi("qa", path, *asked).out)
    direct = json.loads(lmi("qa", book, *asked, "-m", recurrent_model).out)
    assert stored["answers"] == direct["answers"]
    assert stored["method"] == direct["method"]
    assert stored["method"]["name"] == "native"
    visible = stored["answers"][0]["visible"]
    assert visible["carried"] == visible["unseen"] > 2_048
    said = lmi("qa", path, QUESTION, "-n", 4, "--answer-from", "window").err
    assert "only by its state of constant size, which keeps no text word by word" in said
    found = json.loads(lmi("find", path, QUESTION, "-n", 1, "--json").out)["evidence"]
    assert SENTENCE in found[0]["text"]


def _carried(path: Path) -> dict[str, tuple[int, ...]]:
    _, tensors = container.read(path)
    prefix = "state.recurrent."
    found = {name: tuple(x.shape) for name, x in tensors.items() if name.startswith(prefix)}
    assert found
    return found


def test_a_state_of_another_shape_is_refused(
    lmi: Run, recurrent_model: str, book: Path, tmp_path: Path
) -> None:
    path = tmp_path / "book.lmi"
    assert lmi("read", book, "-m", recurrent_model, "-o", path).code == 0
    description, tensors = container.read(path)
    name = "state.recurrent.0.conv.0"
    for wrong in (tensors[name][..., :2], tensors[name] * torch.nan, tensors[name].double()):
        container.write(path, {**tensors, name: wrong.contiguous()}, description)
        result = lmi("qa", path, QUESTION, "-n", 2)
        assert (result.code, name in result.err) == (7, True), result.err
    less = {at: tensor for at, tensor in tensors.items() if at != name}
    container.write(path, less, description)
    assert lmi("qa", path, QUESTION, "-n", 2).code == 7


def test_segments_are_judged_by_a_state_that_cannot_forget(
    lmi: Run, recurrent_model: str, book: Path
) -> None:
    asked = ("-n", 2, "--answer-from", "xl3m", "--passages", 1)
    result = lmi("qa", book, QUESTION, "-m", recurrent_model, *asked)
    assert result.code == 0, result.err


def test_a_document_that_fits(lmi: Run, recurrent_model: str, document: Path) -> None:
    result = lmi("qa", document, "What is green?", "-m", recurrent_model, "-n", 3)
    assert result.code == 0, result.err
    assert "the model read the whole text into its state of constant size" in result.err


def test_scores_passkeys_and_speeds(lmi: Run, recurrent_model: str, book: Path) -> None:
    scored = json.loads(lmi("perplexity", book, "-m", recurrent_model, "--json").out)
    assert scored["method"]["name"] == "native"
    result = lmi("passkey", "--lengths", 200, "--depths", 50, "-m", recurrent_model)
    assert result.code == 0, result.err
    assert result.out.startswith("native\n")
    result = lmi("bench", "-m", recurrent_model, "--depths", 70, "--decode", 2, "--json")
    assert result.code == 0, result.err
    ours, stock = json.loads(result.out)["rows"]
    assert (ours["runner"], stock["runner"]) == ("native", "stock")
    assert ours["cache_bytes"] == stock["cache_bytes"] > 0


def test_questions_of_a_file(
    lmi: Run, recurrent_model: str, document: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    asked = {"document": document.name, "question": "What is green?", "pattern": "."}
    path.write_text(json.dumps(asked) + "\n")
    result = lmi("eval", path, "-m", recurrent_model, "-n", 2, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)["methods"]
    assert report.keys() == {"native"}
    assert report["native"]["config"]["method"] == {"name": "native"}
    result = lmi("eval", path, "-m", recurrent_model, "-n", 2, "--compare", "native,full")
    assert result.code == 2 and "--method full cannot be applied" in result.err
    assert "native: " not in result.err, "refused before anything is asked"


def test_a_model_is_described(lmi: Run, recurrent_model: str, hybrid_model: str) -> None:
    said = lmi("inspect", recurrent_model).out
    assert "native beyond the trained length" in said
    assert "state           2,048 bytes in recurrent layers" in said
    assert "recurrent, no attention: carries a state of constant size" in said
    described = json.loads(lmi("inspect", hybrid_model, "--json").out)
    assert [layer["attention"] for layer in described["layers"]] == [False, True, False]
    assert described["model"]["layers"] == 3
    # It is float32 where the processor has no bfloat16.
    item = getattr(torch, described["model"]["dtype"]).itemsize
    assert described["model"]["cache_bytes_per_token"] == 2 * 2 * 8 * item
    assert described["method"]["name"] == "lm-infinite"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("qa", "--speculate", "suffix"), 2, "its recurrent state cannot forget a wrong one"),
        (("qa", "--method", "full"), 2, "no attention layers, so --method full cannot be applied"),
        (("qa", "--method", "lm-infinite"), 2, "--method lm-infinite cannot be applied to it"),
        (("qa", "--answer-from", "memory"), 2, "native searches no store"),
        (("models", "calibrate"), 4, "has no attention layers, so no retrieval heads"),
    ],
)
def test_what_such_a_model_cannot_do(
    lmi: Run, recurrent_model: str, book: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    command, *options = arguments
    given = [book, QUESTION, "-m", recurrent_model] if command == "qa" else [recurrent_model]
    result = lmi(command, *options, *given)
    assert result.code == code and said in result.err, result.err
    assert len(result.err.splitlines()) <= 2


def test_native_is_for_such_models(lmi: Run, model: str, document: Path) -> None:
    result = lmi("qa", document, QUESTION, "-m", model, "--method", "native")
    assert (result.code, "this one has none" in result.err) == (2, True)


def test_a_hybrid_says_what_its_state_has_read(
    lmi: Run, hybrid_model: str, long_document: Path
) -> None:
    asked = ("qa", long_document, QUESTION, "-m", hybrid_model, "-n", 3, "--no-memory")
    result = lmi(*asked)
    assert result.code == 0, result.err
    assert "which only its state of constant size has read" in result.err
    assert "the model could see the whole text" in lmi(*asked, "--method", "native").err
    cut = lmi(*asked, "--method", "truncate").err
    assert "but NOT the" in cut and "state of constant size" not in cut, "what was left out is not"
