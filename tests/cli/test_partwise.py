"""Answers that are found part by part: what is said of them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_model import save_model

PARTWISE = [
    (("--method", "self-extend"), "cannot be combined with --method"),
    (("--window", "64"), "cannot be combined with --method"),
    (("--no-memory",), "cannot be combined with --no-memory"),
    (("--index", "heads"), "cannot be combined with --index"),
    (("--memory-int8",), "cannot be combined with --memory-int8"),
    (("--memory-topk", "3"), "cannot be combined with --memory-topk"),
    (("--passage-order", "ends"), "--passage-order cannot be combined with --answer-from"),
]


@pytest.mark.parametrize("source", ["xl3m", "chain"])
@pytest.mark.parametrize(("options", "said"), PARTWISE)
def test_what_reading_part_by_part_excludes(
    lmi: Callable[..., Any], model: str, long_document: Path, source: str, options: Any, said: str
) -> None:
    asked = ("qa", long_document, "What?", "-m", model, "--answer-from", source, *options)
    for more in ((), ("--dry-run",)):
        result = lmi(*asked, *more)
        assert result.code == 2 and said in result.err and not result.out
        assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--passages", "0"), "the smallest is 1"),
        (("--passages", "2", "--answer-from", "window"), "cannot be combined with --answer-from"),
        (("--passages", "2", "--answer-from", "chain"), "cannot be combined with --answer-from"),
        (("--passages", "2", "--no-memory"), "cannot be combined with --no-memory"),
        (("--passage-order", "best-last", "--answer-from", "memory"), "cannot be combined"),
        (("--passage-order", "first"), "unknown value 'first' for --passage-order"),
        (("--segment-score", "luck"), "unknown value 'luck' for --segment-score"),
        (("--segment-score", "certainty"), "cannot be combined with --answer-from auto"),
    ],
)
def test_options_of_passages_and_segments(
    lmi: Callable[..., Any], model: str, long_document: Path, options: Any, said: str
) -> None:
    result = lmi("qa", long_document, "What?", "-m", model, *options)
    assert result.code == 2 and said in result.err and not result.out


@pytest.mark.parametrize("command", [("read", "-o", "x.lmi"), ("passkey",)])
def test_only_questions_are_answered_part_by_part(
    lmi: Callable[..., Any], model: str, long_document: Path, command: Any
) -> None:
    sources = (long_document,) if command[0] == "read" else ()
    result = lmi(command[0], *sources, *command[1:], "-m", model, "--answer-from", "xl3m")
    assert result.code == 2 and "an option of qa, chat and eval only" in result.err


def test_an_answer_from_segments_says_so(
    lmi: Callable[..., Any], model: str, long_document: Path
) -> None:
    asked = ("qa", long_document, "What is green?", "-n", 4, "-m", model, "--answer-from", "xl3m")
    result = lmi(*asked, "--json", "--segment-score", "certainty", "--show-prompt")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    (answer,) = report["answers"]
    assert answer["answered_from"] == "xl3m" and answer["passages"] == len(answer["evidence"]) > 1
    assert report["method"]["form"] == "parts" and report["timing"]["parts_s"] > 0
    assert report["sampling"]["segment_score"] == "certainty"
    assert answer["evidence"][0]["text"] in answer["prompt"]
    result = lmi(*asked, "--passages", 1, "-v")
    assert result.code == 0 and "tokens, read part by part with each question, in" in result.err
    assert "the best matches in the" in result.err and "did NOT see" in result.err
    assert result.err.count("\n  line") == 1
    dry = lmi(*asked, "--dry-run")
    assert dry.code == 0 and "read in parts with each question" in dry.out


def test_an_answer_from_notes_says_so(
    lmi: Callable[..., Any], tmp_path: Path, long_document: Path
) -> None:
    model = save_model(tmp_path / "m", max_position_embeddings=1024)
    asked = (long_document, "-n", 4, "-m", model, "--answer-from", "chain")
    result = lmi("qa", "-q", "What is green?", *asked)
    assert result.code == 0, result.err
    assert "answered from notes that it took on all" in result.err
    assert "no note was taken that the text supports" in result.err  # the model is a random one
    report = json.loads(lmi("qa", "-q", "What is green?", *asked, "--json").out)
    assert report["answers"][0]["notes"] == [] and report["answers"][0]["visible"]["noted"] > 0
    talk = lmi("chat", *asked, stdin=b"What is green?\nWhy?\n/save x.lmi\n/quit\n")
    assert talk.code == 0 and talk.out.count("\n") == 2
    assert "nothing has been read yet that a state file could keep" in talk.err


def test_a_state_file_is_answered_from_part_by_part(
    lmi: Callable[..., Any], model: str, long_document: Path, tmp_path: Path
) -> None:
    path, asked = tmp_path / "x.lmi", ("What is green?", "-n", 4, "--json", "--answer-from", "xl3m")
    assert lmi("read", long_document, "-o", path, "-m", model, "--method", "self-extend").code == 0
    stored, direct = lmi("qa", path, *asked), lmi("qa", long_document, *asked, "-m", model)
    assert stored.code == direct.code == 0, stored.err
    first, second = (json.loads(result.out)["answers"] for result in (stored, direct))
    assert first == second
