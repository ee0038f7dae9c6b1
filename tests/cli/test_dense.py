"""Layers and heads that attend to everything, through the commands: options, refusals, files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_model import save_model

from lmi_cli.cache import statefile as container
from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
QUESTION = "What is green?"
LAYERS = ("--dense-layers", "1")
HEADS = ("--dense-heads", "calibrated")


@pytest.fixture(autouse=True)
def _heads(lmi: Run, model: str) -> None:
    remember_heads(
        resolve(model), RetrievalHeads((AttentionHead(1, 3), AttentionHead(0, 1)), 32), []
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--dense-layers", "0-1"), {"dense_layers": "0,1"}),
        (HEADS, {"dense_heads": "calibrated", "dense_key_heads": "0.0,1.1"}),
    ],
)
def test_commands_that_read(
    lmi: Run, model: str, long_document: Path, given: tuple[str, ...], named: dict[str, str]
) -> None:
    for name, *rest in (("qa", QUESTION, "-n", 3), ("perplexity",)):
        arguments = (name, long_document, *rest, *given, "-m", model, "--json")
        result, dry = lmi(*arguments), lmi(*arguments, "--dry-run")
        assert (result.code, dry.code) == (0, 0), result.err + dry.err
        report, forecast = json.loads(result.out), json.loads(dry.out)
        assert named.items() <= report["method"].items()
        assert report["method"] == forecast["method"]
        assert report["method"]["bound_tokens"] is None
        assert report["memory"]["cache_bytes"] <= forecast["memory"]["cache_bytes"]
    told = ", ".join(f"{key} {value}" for key, value in named.items())
    assert told in lmi("inspect", model, *given).out
    assert told in lmi("qa", long_document, QUESTION, *given, "-m", model, "--dry-run").out
    target = long_document.with_suffix(".jsonl")
    bench = ("bench", "--depths", "100", "--decode", 2, *given, "-m", model, "--json")
    result = lmi(*bench, "--jsonl", target)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows == json.loads(result.out)["rows"]
    assert named.items() <= json.loads(result.out)["method"].items()
    result = lmi(
        "passkey", "--lengths", "600", "--depths", "50", *given, "-m", model, "--no-memory"
    )
    assert result.code == 0, result.err


def test_heads_take_their_share_of_the_memory(lmi: Run, model: str, long_document: Path) -> None:
    """One of two key heads in each of two layers; a window of 64, ten sinks for the others."""
    sizes = [
        json.loads(
            lmi("perplexity", long_document, "--window", 64, *given, "-m", model, "--dry-run",
                "--chunk", 64, "--json").out
        )["memory"]["cache_bytes"]
        for given in ((), HEADS, LAYERS, ("--dense-layers", "0,1"))
    ]  # fmt: skip
    none, heads, one, both = sizes
    sinks = 10 * 2 * 2 * 8 * 4  # of two heads, keys and values of eight components
    assert heads - none + sinks == (both - none + 2 * sinks) / 2
    assert one == (none + both) / 2
    assert none < heads < both


def test_what_cannot_be_is_refused_in_a_line(
    lmi: Run, model: str, document: Path, tmp_path: Path
) -> None:
    fresh = save_model(tmp_path / "fresh", seed=7)
    without = save_model(tmp_path / "without", seed=8)
    remember_heads(resolve(str(without)), RetrievalHeads((), 32), [])
    for given, code, said in (
        (("--dense-layers", "2", "-m", model), 2, "there is no layer 2, as the model has 2 layers"),
        (("--dense-layers", "1-0"), 2, "'1-0' is not a list of layers such as 0,5,8-11"),
        (("--dense-layers", "one"), 2, "'one' is not a list of layers"),
        (("--dense-heads", "best"), 2, "unknown value 'best' for --dense-heads"),
        ((*LAYERS, "--method", "full"), 2, "--method full has no option --dense-layers"),
        ((*HEADS, "-m", fresh), 4, "have not been looked for"),
        ((*HEADS, "-m", without), 4, "has no retrieval heads"),
    ):
        for command in (
            ("qa", document, QUESTION),
            ("perplexity", document),
            ("inspect", document),
        ):
            result = lmi(*command, *given)
            assert result.code == code, result.err
            assert said in result.err and "Traceback" not in result.err
    assert (
        f"hint: find them once: lmi models calibrate {fresh}"
        in lmi("perplexity", document, *HEADS, "-m", fresh, "--dry-run").err
    )
    result = lmi("inspect", fresh, *HEADS)
    assert (result.code, len(result.err.splitlines())) == (4, 2)


@pytest.mark.parametrize("given", [LAYERS, HEADS])
@pytest.mark.parametrize("answer_from", ["window", "memory"])
def test_a_state_file(
    lmi: Run,
    model: str,
    long_document: Path,
    tmp_path: Path,
    given: tuple[str, ...],
    answer_from: str,
) -> None:
    path = tmp_path / "book.lmi"
    kept = ("--keep", "both" if answer_from == "memory" else "index")
    read = ("read", long_document, "-m", model, "-o", path, *kept, "--answer-from", answer_from)
    result = lmi(*read, *given)
    assert result.code == 0, result.err
    asked = (QUESTION, "-n", 6, "--json", "--answer-from", answer_from)
    stored = json.loads(lmi("qa", path, *asked).out)
    direct = json.loads(lmi("qa", long_document, *asked, *given, "-m", model).out)
    assert stored["method"] == direct["method"]
    assert stored["answers"] == direct["answers"]
    assert {given[0][2:].replace("-", "_"): given[1]}.items() <= stored["method"].items()
    assert lmi("qa", path, *asked, *given).code == 0
    assert f"{given[0][2:].replace('-', '_')} {given[1]}" in lmi("inspect", path).out
    for other in (("--dense-layers", "0"), ("--dense-layers", "0,1")):
        result = lmi("qa", path, *asked, *other)
        assert result.code == 7 and "was read with dense_layers" in result.err
    assert lmi("read", "--append", path, long_document).code == 0


@pytest.mark.parametrize("value", [None, 1, "", "0", "0.2", "0.0,1.0,1.1", "2.0,1.1", "1.9999"])
def test_heads_in_a_state_file_are_those_that_it_was_read_with(
    lmi: Run, model: str, long_document: Path, tmp_path: Path, value: object
) -> None:
    path = tmp_path / "book.lmi"
    result = lmi("read", long_document, "-m", model, "-o", path, *HEADS, "--no-memory")
    assert result.code == 0, result.err
    description, tensors = container.read(path)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    del tensors
    description["plan"]["method"]["dense_key_heads"] = value
    container.write(path, copies, description)
    result = lmi("qa", path, QUESTION, "-n", 3)
    assert result.code == 7 and "is damaged" in result.err, result.err


@pytest.mark.parametrize("given", [LAYERS, HEADS])
def test_what_is_said_about_what_was_seen(
    lmi: Run, model: str, long_document: Path, given: tuple[str, ...]
) -> None:
    """Everything, but not everywhere; and the rest may search for what it does not see."""
    asked = (long_document, QUESTION, "-n", 3, "-m", model, *given)
    result = lmi("qa", *asked)
    assert "some layers or heads of the model could see the whole text" in result.err
    report = json.loads(lmi("qa", *asked, "--json").out)
    (answer,) = report["answers"]
    visible = answer["visible"]
    assert answer["answered_from"] == "whole" and visible["unseen"] == visible["searched"] == 0
    assert 0 < visible["window"] - visible["partly"] < visible["window"] == report["tokens"]["read"]
    result = lmi("qa", *asked, "--answer-from", "memory", "--memory-topk", "3")
    assert "more, each query head attended to at most 3 at a time" in result.err
    (answer,) = json.loads(lmi("qa", *asked, "--answer-from", "memory", "--json").out)["answers"]
    visible = answer["visible"]
    assert answer["answered_from"] == "memory" and visible["attended"] == 32
    assert 0 < visible["searched"] <= visible["partly"]


def test_where_all_layers_see_everything_nothing_is_searched(
    lmi: Run, model: str, long_document: Path, tmp_path: Path
) -> None:
    given = ("--dense-layers", "0-1", "-m", model)
    asked = ("qa", long_document, QUESTION, "-n", 3, *given, "--answer-from", "memory", "--json")
    result = lmi(*asked)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["answers"][0]["answered_from"] == "whole"
    assert report["answers"][0]["visible"]["partly"] == 0
    assert report["tokens"]["stored"] == 0


def test_a_short_text_beyond_a_small_window_is_answered_from_memory(
    lmi: Run, model: str, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("The sky is blue and the grass is green. " * 10)
    asked = ("qa", path, QUESTION, "-m", model, "-n", 3, "--answer-from", "memory", "--json")
    beyond, whole = (
        json.loads(lmi(*asked, *window).out) for window in (["--window", 40, "--sinks", 2], [])
    )
    assert beyond["method"]["form"] == "fits"
    assert beyond["answers"][0]["answered_from"] == "memory"
    assert whole["answers"][0]["answered_from"] == "whole"
