"""Every method runs through the commands, and answers from a state file as it does directly."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.methods import METHODS
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
QUESTION = "What is green?"
# Methods that read a long text as a stream, from which an index is kept.
STREAMS = ["lm-infinite", "streaming-llm", "self-extend", "full"]


@pytest.fixture(autouse=True)
def _heads(lmi: Run, model: str) -> None:
    remember_heads(resolve(model), RetrievalHeads((AttentionHead(1, 0),), 32), [])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", [("qa", QUESTION, "-n", 3), ("perplexity",)])
def test_a_forecast_and_a_reading_use_the_same_parameters(
    lmi: Run,
    model: str,
    hybrid_model: str,
    long_document: Path,
    method: str,
    command: tuple[Any, ...],
) -> None:
    model, (name, *rest) = hybrid_model if method == "native" else model, command
    arguments = (name, long_document, *rest, "--method", method, "-m", model, "--json")
    result, dry = lmi(*arguments), lmi(*arguments, "--dry-run")
    assert (result.code, dry.code) == (0, 0), result.err + dry.err
    report = json.loads(result.out)["method"]
    assert report["name"] == method
    assert {key: report.get(key) for key in json.loads(dry.out)["method"]} == json.loads(dry.out)[
        "method"
    ]


@pytest.mark.parametrize("method", METHODS)
def test_passkey(lmi: Run, model: str, hybrid_model: str, method: str) -> None:
    model = hybrid_model if method == "native" else model
    arguments = ("--lengths", "200,600", "--depths", "50", "--no-memory", "--json")
    result = lmi("passkey", *arguments, "--method", method, "-m", model)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["method"]["name"] == method
    assert [cell["length"] for cell in report["cells"]] == [200, 600]


@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize("answer_from", ["auto", "window"])
def test_a_state_file(
    lmi: Run, model: str, long_document: Path, tmp_path: Path, method: str, answer_from: str
) -> None:
    path = tmp_path / "book.lmi"
    given = ("--method", method, "-m", model)
    result = lmi("read", long_document, *given, "-o", path)
    assert result.code == 0, result.err
    asked = (QUESTION, "-n", 6, "--json", "--answer-from", answer_from)
    stored = json.loads(lmi("qa", path, *asked).out)
    direct = json.loads(lmi("qa", long_document, *asked, *given).out)
    if answer_from == "window":  # the default window is that of reading for this alone
        result = lmi("read", long_document, *given, "-o", path, "--answer-from", "window")
        stored = json.loads(lmi("qa", path, *asked).out)
    assert stored["method"] == direct["method"]
    assert stored["answers"] == direct["answers"]
    assert lmi("read", "--append", path, long_document).code == 0
    other = next(name for name in METHODS if name != method)
    assert lmi("qa", path, QUESTION, "--method", other).code == 7


def test_a_truncated_reading(lmi: Run, model: str, long_document: Path, tmp_path: Path) -> None:
    path = tmp_path / "book.lmi"
    given = ("--method", "truncate", "--truncation-side", "middle", "--window", 400, "-m", model)
    dry = lmi("qa", long_document, QUESTION, *given, "-n", 6, "--dry-run")
    assert re.search(r"fits +no: only the first \d+ and the last \d+ tokens are read", dry.out)
    result = lmi("read", long_document, *given, "-o", path)
    assert result.code == 0, result.err
    result = lmi("qa", path, QUESTION, "-n", 6)
    assert result.code == 0
    assert "the model could see the first" in result.err
    assert "but NOT the" in result.err and "tokens between them" in result.err
    stored, direct = (
        json.loads(lmi("qa", source, QUESTION, "-n", 6, "--json", *more).out)
        for source, more in ((path, ()), (long_document, given))
    )
    for report in (stored, direct):
        assert report["method"] == stored["method"]
        assert report["method"]["form"] == "truncated"
        assert report["answers"][0]["answered_from"] == "window"
        visible = report["answers"][0]["visible"]
        assert report["tokens"]["read"] == visible["sinks"] + visible["window"] < 400
    assert lmi("qa", path, QUESTION, "--truncation-side", "left").code == 7
    for arguments, said in (
        (("read", "--append", path, long_document), "nothing can be appended"),
        (("qa", path, QUESTION, "--answer-from", "passages"), "there are no passages"),
        (("find", long_document, QUESTION, *given), "reads only a part"),
        (("bench", "--method", "truncate", "-m", model), "never reads"),
        (("perplexity", long_document, *given), "the middle cannot be left out"),
        (("qa", long_document, QUESTION, *given, "--truncation-side", "right"), "left, middle"),
    ):
        result = lmi(*arguments)
        assert result.code == 2 and said in result.err, result.err
        assert len(result.err.splitlines()) <= 3


@pytest.mark.parametrize("method", [name for name in STREAMS if name != "lm-infinite"])
@pytest.mark.parametrize(
    "arguments", [("qa", QUESTION, "--answer-from", "memory"), ("read", "--keep", "store")]
)
def test_a_store_that_no_query_would_search_is_refused(
    lmi: Run, model: str, long_document: Path, tmp_path: Path, method: str, arguments: Any
) -> None:
    command, *rest = arguments
    target = ("-o", tmp_path / "book.lmi") if command == "read" else ()
    result = lmi(command, long_document, *rest, *target, "--method", method, "-m", model)
    assert result.code == 2
    assert f"{method} searches no store" in result.err


def test_options_of_other_methods_are_refused(lmi: Run, document: Path) -> None:
    for method, option in (
        ("streaming-llm", "--ceiling"),
        ("streaming-llm", "--group"),
        ("self-extend", "--sinks"),
        ("full", "--window"),
    ):
        result = lmi("qa", document, QUESTION, "--method", method, option, "9")
        assert result.code == 2
        assert f"--method {method} has no option {option}" in result.err


def test_an_option_of_a_search_needs_one(lmi: Run, document: Path) -> None:
    for given, said in (
        (("--no-memory",), "--memory-topk cannot be combined with --no-memory"),
        (("--answer-from", "passages"), "but --answer-from passages searches none"),
        (("--answer-from", "window"), "but --answer-from window searches none"),
    ):
        result = lmi("qa", document, QUESTION, "--memory-topk", "9", *given)
        assert result.code == 2
        assert said in result.err


def test_scaled_frequencies_are_part_of_a_state_file(
    lmi: Run, model: str, long_document: Path, tmp_path: Path
) -> None:
    path = tmp_path / "book.lmi"
    given = ("--method", "full", "--rope-scaling", "yarn")
    result = lmi("read", long_document, "-m", model, *given, "-o", path)
    assert result.code == 0, result.err
    asked = (QUESTION, "-n", 6, "--json", "--answer-from", "window")
    stored = json.loads(lmi("qa", path, *asked, *given).out)
    direct = json.loads(lmi("qa", long_document, *asked, *given, "-m", model).out)
    assert stored["method"] == direct["method"]
    assert stored["method"]["rope_scaling"] == "yarn" and stored["method"]["rope_factor"] > 1
    assert stored["answers"] == direct["answers"]
    assert "rope_scaling yarn, rope_factor" in lmi("inspect", path).out
    for other in (("--rope-scaling", "linear"), ("--rope-factor", "2", "--rope-scaling", "yarn")):
        assert lmi("qa", path, *asked, "--method", "full", *other).code == 7
