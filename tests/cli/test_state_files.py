"""``read`` and what takes a state file as its source: exit codes, messages, what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_builders import tiny_gguf

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
QUESTION = "What is green?"


@pytest.fixture(autouse=True)
def _heads(lmi: Run, model: str) -> None:
    remember_heads(
        resolve(model), RetrievalHeads((AttentionHead(1, 0), AttentionHead(0, 2)), 32), []
    )


@pytest.fixture
def book(lmi: Run, model: str, long_document: Path) -> Path:
    path = long_document.with_suffix(".lmi")
    result = lmi("read", long_document, "-o", path, "-m", model, "--keep", "both")
    assert result.code == 0, result.err
    assert result.out == ""
    assert "tokens" in result.err
    return path


def test_answers_are_those_of_reading_directly(
    lmi: Run, model: str, long_document: Path, book: Path
) -> None:
    for options in ([], ["--answer-from", "memory"], ["--answer-from", "window"]):
        direct, stored = (
            lmi("qa", source, QUESTION, "-n", 6, "--json", *options, *more)
            for source, more in ((long_document, ["-m", model]), (book, []))
        )
        assert (direct.code, stored.code) == (0, 0), stored.err
        one, two = json.loads(direct.out), json.loads(stored.out)
        assert one["answers"] == two["answers"]
        assert one["sources"] == two["sources"]
        assert two["timing"]["prefill_s"] == 0


def test_the_answer_comes_with_its_places(lmi: Run, book: Path) -> None:
    result = lmi("qa", book, QUESTION, "-n", 4, "--json")
    (answer,) = json.loads(result.out)["answers"]
    assert answer["answered_from"] == "passages"
    assert answer["visible"]["reread"] > 0
    first = answer["evidence"][0]
    assert set(first) == {
        "source", "page", "label", "line_start", "line_end", "start", "end", "text", "score",
        "tokens", "quotes", "headings",
    }  # fmt: skip
    result = lmi("qa", book, QUESTION, "-n", 4)
    assert "most relevant passages" in result.err
    assert f"lines {first['line_start']}-{first['line_end']}: " in result.err
    assert "it did NOT see the rest" in result.err
    assert "most relevant passages" not in result.out


def test_one_pass_summaries_take_it(lmi: Run, book: Path) -> None:
    assert lmi("summarize", book, "-n", 3).code == 0


def test_inspect_shows_what_is_in_it(lmi: Run, book: Path, long_document: Path) -> None:
    result = lmi("inspect", book)
    assert result.code == 0
    assert "index, store" in result.out
    assert str(long_document) in result.out
    report = json.loads(lmi("inspect", book, "--json").out)["state_file"]
    assert report["complete"] is True
    assert report["kept"] == ["index", "store"]
    long_document.write_text("other\n")
    assert "has changed" in lmi("inspect", book).err
    assert "has changed" in lmi("qa", book, QUESTION, "-n", 2).err


@pytest.mark.parametrize("command", [("qa", QUESTION), ("chat",), ("summarize",)])
def test_a_dry_run_shows_it(lmi: Run, book: Path, command: tuple[str, ...]) -> None:
    name, *question = command
    result = lmi(name, book, *question, "--dry-run")
    assert result.code == 0, result.err
    assert result.out == lmi("inspect", book).out


def test_a_dry_run_forecasts_what_is_kept(
    lmi: Run, model: str, long_document: Path, book: Path
) -> None:
    foretold = lmi("read", long_document, "-m", model, "--keep", "both", "--dry-run", "--json")
    stored = json.loads(lmi("read", long_document, "-m", model, "--dry-run", "--json").out)
    both = json.loads(foretold.out)["memory"]["store_bytes"]
    assert both > stored["memory"]["store_bytes"] > 0


def test_appending_has_no_dry_run(lmi: Run, book: Path, document: Path) -> None:
    result = lmi("read", "--append", book, document, "--dry-run")
    assert result.code == 2
    assert "lmi inspect" in result.err


def test_more_is_read_into_it(lmi: Run, book: Path, document: Path) -> None:
    result = lmi("read", "--append", book, document)
    assert result.code == 0, result.err
    report = json.loads(lmi("inspect", book, "--json").out)["state_file"]
    assert [Path(source["origin"]).name for source in report["sources"]] == [
        "book.txt",
        "notes.txt",
    ]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--window", "7"], 7, "was read with window"),
        (["--dtype", "float16"], 7, "was read with dtype"),
        (["--quantize", "int8"], 7, "was read with quantize none"),
        (["--method", "full"], 7, "was read with method"),
        (["--memory-topk", "0"], 2, "memory-topk 0"),
        (["--memory-distance", "0"], 2, "memory-distance 0"),
        (["--memory-from-layer", "-1"], 2, "memory-from-layer -1"),
        (["--answer-from", "guess"], 2, "answer-from"),
        (["--no-memory", "--answer-from", "memory"], 2, "--no-memory"),
        (["--memory-budget", "-1"], 2, "memory-budget"),
        (["--memory-search", "guess"], 2, "'guess' for --memory-search"),
        (["--memory-percent", "5"], 2, "an exact search scores all stored tokens"),
        (["--memory-topk", "3", "--memory-distance", "9"], 0, ""),
        (["--memory-search", "clusters"], 0, "tokens in clusters"),
        (["--memory-search", "pruned", "--memory-percent", "20"], 0, ""),
        (["--temperature", "0.5", "--seed", "3"], 0, ""),
    ],
)
def test_what_is_fixed_and_what_is_free(
    lmi: Run, book: Path, options: list[str], code: int, said: str
) -> None:
    result = lmi("qa", book, QUESTION, "-n", 2, *options)
    assert result.code == code, result.err
    assert said in result.err


def test_wrong_uses(lmi: Run, model: str, book: Path, document: Path, tmp_path: Path) -> None:
    for arguments, code, said in (
        (["read", document, "-m", model], 2, "no state file to write"),
        (["read", book, "-o", tmp_path / "b.lmi"], 2, "has been read"),
        (["read", document, "--append", document], 2, "not a state file"),
        (["read", document, "-o", tmp_path / "no" / "b.lmi", "-m", model], 2, "not a folder"),
        (["read", document, "-o", document], 2, "exists and is not a state file"),
        (["read", document, "-o", tmp_path / "b.lmi", "--keep", "all"], 2, "'all' for --keep"),
        (["qa", book, document, QUESTION], 2, "must be the only source"),
        (["chat", "-"], 2, "standard input"),
        (["chat"], 2, "standard input"),
    ):
        result = lmi(*arguments)
        assert (result.code, said in result.err) == (code, True), result.err


def test_damage_is_exit_7(lmi: Run, book: Path) -> None:
    data = bytearray(book.read_bytes())
    data[len(data) // 2] ^= 1
    book.write_bytes(data)
    result = lmi("qa", book, QUESTION)
    assert result.code == 7
    assert "is damaged" in result.err
    book.write_bytes(data[:5000])
    assert lmi("inspect", book).code == 7


def test_a_conversation(lmi: Run, book: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.lmi"
    lines = [
        "What is green?", "/evidence", "And blue?", "/nonsense", "/new", f"/save {saved}", "",
        "Why?", "/quit", "never asked",
    ]  # fmt: skip
    result = lmi("chat", book, "-n", 4, stdin=("\n".join(lines) + "\n").encode())
    assert result.code == 0, result.err
    assert result.out.count("\n") >= 3
    assert "most relevant passages" in result.err
    assert "forget the conversation" in result.err
    first = lmi("qa", book, "What is green?", "-n", 4).out
    assert result.out.startswith(first)
    assert lmi("inspect", saved).code == 0
    assert lmi("chat", book, "-n", 4, stdin=b"Why \xff?").code == 0  # ends with its input
    result = lmi(
        "chat", book, "-n", 4, stdin=b"/save /no/where.lmi\n" + b"So? " * 2000 + b"\nWhy?\n"
    )
    assert result.code == 0
    assert "not a folder" in result.err
    assert "does not fit the window" in result.err


def test_calibration_says_when_no_head_stands_out(lmi: Run, model: str) -> None:
    result = lmi("models", "calibrate", model, "--json")
    report = json.loads(result.out)
    assert len(report["ranks"]) > 0
    assert (result.code == 0) == bool(report["heads"])
    if not report["heads"]:
        assert result.code == 4
        assert "no retrieval heads" in result.err


@pytest.mark.slow
def test_what_was_read_with_blocks_is_answered_from_without_the_library(
    lmi: Callable[..., Any], tmp_path: Path, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in bfloat16 take the place of the blocks of the file."""
    path, text = tmp_path / "tiny.gguf", tmp_path / "notes.txt"
    tiny_gguf(path, hidden=128, heads=4, kv_heads=2, ff=64)
    text.write_text("The grass is green. " * 3)
    state = tmp_path / "notes.lmi"
    read = lmi("read", text, "-o", state, "-m", path, "--json")
    assert read.code == 0, read.err
    assert json.loads(read.out)["model"]["quantize"] == "blocks"
    monkeypatch.setenv("LMI_NATIVE", "0")
    answer = lmi("qa", state, "What is green?", "-n", 2, "--json")
    assert answer.code == 0, answer.err
    model = json.loads(answer.out)["model"]
    assert (model["dtype"], model["quantize"]) == ("bfloat16", "none")
    refused = lmi("qa", state, "What is green?", "-n", 2, "--quantize", "int8")
    assert refused.code == 7 and "was read with quantize blocks, not int8" in refused.err
