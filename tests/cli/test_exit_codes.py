"""Every foreseeable failure: its exit code, and a line that says what to do."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lmi_cli import memory
from lmi_cli.cli.arguments import count

ONE = "What is green?"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("qa", "absent.pdf", ONE), 2, "no such file or folder: absent.pdf"),
        (("qa", "*.absent", ONE), 2, "no file matches"),
        (("qa",), 2, "no question"),
        (("qa", ONE), 2, "no source"),
        (("qa", "{doc}"), 2, "try: lmi qa {doc}"),
        (("qa", "{doc}", "{doc}"), 2, "try: lmi qa {doc} {doc}"),
        (("qa", "{doc}", "-"), 2, "the last argument is the question"),
        (("qa", "{doc}", " "), 2, "a question is empty"),
        (("qa", "{doc}", "-q", ""), 2, "a question is empty"),
        (("qa", "-", "-", ONE), 2, "more than once"),
        (("qa", "{doc}", "--questions", "absent"), 2, "questions file absent: No such file"),
        (("qa", "{doc}", "--questions", "{blank}"), 2, "contains no question"),
        (("qa", "{doc}", "--questions", "{binary}"), 2, "not UTF-8"),
        (("qa", "{doc}", "--password-file", "absent", ONE), 2, "password file absent"),
        (("qa", "{doc}", "--password-file", "{empty}", ONE), 2, "{empty} is empty"),
        (("qa", "{doc}", "--password-file", "{binary}", ONE), 2, "not UTF-8"),
        (("summarize",), 2, "no source"),
        (("perplexity",), 2, "no source"),
        (("qa", "{empty}", ONE), 3, "no text in {empty}"),
        (("qa", "{blank}", ONE), 3, "no text in {blank}"),
        (("qa", "{binary}", ONE), 3, "{binary}: "),
        (("perplexity", "{letter}"), 3, "fewer than two tokens"),
        (("qa", "{doc}", ONE, "-m", "nonesuch"), 4, "unknown model 'nonesuch'"),
        (("qa", "{doc}", ONE, "-m", "./nonesuch"), 4, "no such file or folder"),
        (("qa", "{doc}", ONE, "-m", "no/such", "--offline"), 4, "no/such"),
        (("qa", "{doc}", ONE, "-m", "{folder}"), 4, "config.json"),
        (("models", "rm", "nonesuch"), 4, "not in lmi's cache"),
        (("frobnicate",), 2, "No such command"),
        (("qa", "--frobnicate"), 2, "No such option"),
        (("qa", "{doc}", ONE, "--method", "magic"), 2, "lm-infinite"),
        (("qa", "{doc}", ONE, "--dtype", "int3"), 2, "bfloat16"),
        (("qa", "{doc}", ONE, "--quantize", "int3"), 2, "none, blocks, int8, int4"),
        (("qa", "{doc}", ONE, "--device", "abacus"), 2, "abacus"),
        (("qa", "{doc}", ONE, "--max-memory", "plenty"), 2, "0=6GiB"),
    ],
)
def test_each_failure_has_its_code_and_one_line(
    lmi: Callable[..., object],
    model: str,
    document: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    names = {"doc": document, "folder": tmp_path / "folder"}
    (tmp_path / "folder").mkdir()
    contents = {"empty": b"", "blank": b" \n\n", "binary": b"\x89PNG\xff\x00" * 99, "letter": b"x"}
    for name, content in contents.items():
        names[name] = tmp_path / name
        names[name].write_bytes(content)
    given = [argument.format(**names) for argument in arguments]
    if given[0] in ("qa", "summarize", "perplexity") and "-m" not in given:
        given += ["-m", model]
    result = lmi(*given)
    assert result.code == code, result.err
    assert said.format(**names) in result.err
    assert result.err.startswith("lmi: ")
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) <= 2 and all(line.startswith("     hint: ") for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--window", "0"), "the smallest is 1"),
        (("--window", "-1"), "the smallest is 1"),
        (("--window", "nan"), "not a number"),
        (("--window", "1e400"), "not a number"),
        (("--window", "1e99"), "is too large"),
        (("--window", "1.5"), "not a whole number"),
        (("--window", "64", "--ceiling", "32"), "ceiling 32 is below the window 64"),
        (("--ceiling", "0"), "--ceiling 0: the smallest is 1"),
        (("--sinks", "-1"), "smallest is 0"),
        (("--chunk", "0"), "the range is 1 to 65,536"),
        (("--chunk", "100M"), "the range is 1 to 65,536"),
        (("--method", "full", "--window", "9"), "--method full has no option --window"),
        (("--max-new-tokens", "0"), "smallest is 1"),
        (("--contrast", "-0.1"), "--contrast -0.1: the range is 0 to 10"),
        (("--contrast", "nan"), "--contrast nan: the range is 0 to 10"),
        (("--rank", "guess"), "--rank"),
        (("--speculate", "tree"), "--speculate"),
        (("--index", "guess"), "--index"),
        (("--index", "guess", "--no-memory"), "--index"),
        (("--temperature", "nan"), "a number from 0 up"),
        (("--temperature", "-1"), "a number from 0 up"),
        (("--top-p", "0"), "above 0 and at most 1"),
        (("--top-p", "nan"), "above 0 and at most 1"),
        (("--top-k", "-1"), "0 (all tokens) or more"),
        (("--max-file-size", "-1"), "the smallest is 0"),
        (("--seed", "x"), "not a number"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_model_is_looked_for(
    lmi: Callable[..., object], document: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = lmi("qa", document, ONE, "-m", "nonesuch", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("perplexity", ("--length", "1"), "at least 2 tokens"),
        ("perplexity", ("--length", "-4"), "at least 2 tokens"),
        ("passkey", ("--lengths", "many"), "'many' is not a number"),
        ("passkey", ("--lengths", ","), "the grid is empty"),
        ("passkey", ("--lengths", "20"), "the shortest for this model"),
        ("passkey", ("--lengths", "-5"), "the shortest for this model"),
        ("passkey", ("--depths", "101"), "from 0 to 100"),
        ("passkey", ("--depths", "nan"), "from 0 to 100"),
        ("passkey", ("--depths", "deep"), "expected percentages"),
        ("passkey", ("--trials", "0"), "the grid is empty"),
        ("bench", ("--depths", ","), "nothing to measure"),
        ("bench", ("--depths", "0"), "nothing to measure"),
        ("bench", ("--decode", "0"), "nothing to measure"),
        ("bench", ("--against", "llama.cpp"), "one of stock, full, none"),
    ],
)
def test_numbers_of_the_other_commands(
    lmi: Callable[..., object],
    model: str,
    document: Path,
    command: str,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    sources = () if command in ("passkey", "bench") else (document,)
    result = lmi(command, *sources, "-m", model, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("4k", 4000),
        ("4K", 4096),
        ("1m", 1_000_000),
        ("1M", 2**20),
        ("1.5k", 1500),
        ("2.3m", 2_300_000),
        ("1e9", 10**9),
        (" 7 ", 7),
        ("-3", -3),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize("window", ["1e9", "9e15"])
def test_a_window_beyond_the_trained_length_is_allowed_with_a_warning(
    lmi: Callable[..., object], model: str, document: Path, window: str
) -> None:
    result = lmi("qa", document, ONE, "-m", model, "-n", 2, "--window", window)
    assert result.code == 0
    assert "beyond the trained length of 256 tokens" in result.err


def test_a_question_longer_than_the_window(
    lmi: Callable[..., object], model: str, document: Path
) -> None:
    result = lmi("qa", document, "Why? " * 5000, "-m", model)
    assert (result.code, result.out) == (2, "")
    assert "does not fit the window" in result.err


def test_a_fault_of_ours_is_told_as_one(
    lmi: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> object:
        raise LookupError("\x1b[2Jwhy")

    monkeypatch.setattr("lmi_cli.checkpoints.cached.list_models", broken)
    result = lmi("models")
    assert result.code == 1
    assert result.err.endswith("bug in lmi: LookupError: \\x1b[2Jwhy\n")
    assert "Traceback" in result.err and "\x1b" not in result.err


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False)])
def test_debugging_shows_the_traceback_and_keeps_the_code(
    lmi: Callable[..., object], monkeypatch: pytest.MonkeyPatch, value: str, shown: bool
) -> None:
    monkeypatch.setenv("LMI_DEBUG", value)
    result = lmi("qa", "absent", ONE)
    assert result.code == 2
    assert ("Traceback" in result.err) is shown


def test_running_out_of_memory(lmi: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> object:
        raise MemoryError

    monkeypatch.setattr("lmi_cli.checkpoints.cached.list_models", exhausted)
    result = lmi("models")
    assert result.code == 5
    assert "out of memory" in result.err


def test_without_arguments_help_and_code_two(lmi: Callable[..., object]) -> None:
    result = lmi()
    assert (result.code, result.out) == (2, "")
    assert "perplexity" in result.err and "\\n" not in result.err


@pytest.mark.parametrize("arguments", [(), ("qa",), ("models",), ("models", "pull")])
def test_help_is_on_stdout(lmi: Callable[..., object], arguments: tuple[str, ...]) -> None:
    result = lmi(*arguments, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Usage: lmi" in result.out


def test_models_are_listed(lmi: Callable[..., object]) -> None:
    assert "smollm2-135m-instruct" in lmi("models").out
    for arguments in (("models", "--json"), ("models", "list", "--json")):
        listed = json.loads(lmi(*arguments).out)
        assert listed["command"] == "models"
        assert listed["models"][0]["name"] == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    "arguments",
    [
        ("qa", "--\x1b]0;x\x07"),
        ("\x1b[2J",),
        ("models", "\x1b[2J"),
        ("models", "rm", "\x1b[2J"),
        ("qa", "a", "Why?", "--window", "\x1b[2J"),
        ("qa", "a\x9b", "Why?", "-m", "[/x]\x1b[2J"),
        ("qa", "[/x.jpg]", "[id]"),
    ],
    ids=["option", "command", "subcommand", "name", "number", "model", "markup"],
)
def test_hostile_arguments_are_shown_escaped(
    lmi: Callable[..., object], arguments: tuple[str, ...]
) -> None:
    """The parser of the command line quotes arguments in errors of its own."""
    result = lmi(*arguments, terminal=True)
    assert result.code in (2, 4) and result.out == ""
    assert "Traceback" not in result.err
    assert not set(result.err) & set("\x1b\x9b\x07\r")


def test_a_closed_stdin_is_no_source(
    lmi: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmi_cli.cli.session.sys", type(sys)("sys"))
    monkeypatch.setattr("lmi_cli.cli.session.sys.stdin", None, raising=False)
    assert lmi("qa", ONE).code == 2


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    lmi: Callable[..., object], model: str, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    result = lmi("qa", document, ONE, "-m", model)
    assert (result.code, result.out) == (5, "")
    assert "is free" in result.err and "--device-map" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("qa", "-q", ONE, "--window", "1m"),
        ("perplexity", "--window", "1m"),
        ("passkey", "--lengths", "1m", "--method", "full"),
        ("bench", "--depths", "1m", "--method", "full", "--against", "none"),
    ],
    ids=lambda given: given[0],
)
def test_caches_that_do_not_fit_are_refused_before_anything_is_read(
    lmi: Callable[..., object],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    command, *rest = arguments
    source = tmp_path / "long.txt"
    source.write_text("word " * 2000)
    sources = [source] if command in ("qa", "perplexity") else []
    monkeypatch.setattr(memory, "available_bytes", lambda: 50_000_000)
    result = lmi(command, *sources, *rest, "-m", model)
    assert (result.code, result.out) == (5, "")
    assert "tokens per layer, takes" in result.err and "--window" in result.err
