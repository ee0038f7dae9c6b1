"""``lmi find``: places and sentences, forms of output, state files, what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.cli.find import wrapped
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
QUERY = "What is green?"


@pytest.fixture(scope="module")
def cache_with_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of our own: other tests rely on a model whose heads are not known."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _heads(lmi: Run, model: str, cache_with_heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(cache_with_heads))
    remember_heads(
        resolve(model), RetrievalHeads((AttentionHead(1, 0), AttentionHead(0, 2)), 32), []
    )


def test_places_and_sentences(lmi: Run, model: str, long_document: Path, tmp_path: Path) -> None:
    files = ("--csv", tmp_path / "p.csv", "--jsonl", tmp_path / "p.jsonl")
    result = lmi("find", long_document, QUERY, "-m", model, "-n", 3, *files)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    objects = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["text"] for row in rows] == [item["text"] for item in objects]
    assert ["  " + item["quotes"] for item in objects] == lines[1::2]
    assert len(lines) == 6
    assert all(line.startswith("line") for line in lines[::2])
    text = " ".join(long_document.read_text().split())
    for line in lines[1::2]:
        assert line.startswith("  ")
        assert all(part in text for part in line.strip().split(" ... "))
    assert "\x1b" not in result.out


def test_words_are_set_off_on_a_terminal(
    lmi: Run, model: str, long_document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    asked = ("find", long_document, QUERY, "-m", model)
    plain, shown = lmi(*asked).out, lmi(*asked, terminal=True).out
    assert "\x1b[1m" in shown
    assert shown.replace("\x1b[1m", "").replace("\x1b[0m", "") == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert lmi(*asked, terminal=True).out == plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert lmi(*asked, terminal=True).out == plain


def test_lines_of_a_terminal_end_between_words() -> None:
    """However wide characters are; a word of which a part is set off stays whole."""
    pieces = [("lines 1-2\n", False), ("  One small ", False), ("Highbury", True)]
    pieces += [(", \u6f22\u5b57 end\n", False)]
    text = "".join(part for part, _ in wrapped(pieces, 20))
    assert text == "lines 1-2\n  One small\n  Highbury, \u6f22\u5b57\n  end\n"
    assert ("Highbury", True) in list(wrapped(pieces, 20))
    assert "".join(part for part, _ in wrapped([("  x" * 40, False)], 1)).count("x") == 40


def test_json(lmi: Run, model: str, long_document: Path) -> None:
    report = json.loads(lmi("find", long_document, QUERY, "-m", model, "--json").out)
    text = long_document.read_text()
    assert len(report["evidence"]) == 5 and report["tokens"]["generated"] == 0
    for item in report["evidence"]:
        assert text[item["start"] : item["end"]] == item["text"]
        assert 1 <= len(item["quotes"]) <= 2
        for quote in item["quotes"]:
            assert text[quote["start"] :].startswith(quote["text"])
            assert quote["line"] == text[: quote["start"]].count("\n") + 1
            words = [quote["text"][begin:end] for begin, end in quote["words"]]
            assert all(word and not word.isspace() for word in words)


def test_lines_for_editors(lmi: Run, model: str, long_document: Path) -> None:
    result = lmi("find", long_document, QUERY, "-m", model, "--files")
    text = long_document.read_text().splitlines()
    for line in result.out.splitlines():
        path, number, said = line.split(":", 2)
        assert path == str(long_document)
        assert text[int(number) - 1].strip().startswith(said.strip()[:8])


def test_whole_passages(lmi: Run, model: str, long_document: Path) -> None:
    asked = ("find", long_document, QUERY, "-m", model, "-n", 1)
    one = lmi(*asked, "-C", 0).out.splitlines()[1:]
    more = lmi(*asked, "-C", 1).out.splitlines()[1:]
    assert len(more) > len(one)
    lines = long_document.read_text().splitlines()
    assert all(any(shown.strip() in line for line in lines) for shown in more)


def test_from_a_state_file(lmi: Run, model: str, long_document: Path) -> None:
    path = long_document.with_suffix(".lmi")
    assert lmi("read", long_document, "-o", path, "-m", model).code == 0
    fresh = lmi("find", long_document, QUERY, "-m", model).out
    result = lmi("find", path, QUERY)
    assert (result.code, result.out) == (0, fresh)
    assert "come from the state file" in result.err


def test_a_document_that_fits(lmi: Run, model: str, document: Path) -> None:
    result = lmi("find", document, QUERY, "-m", model)
    assert result.code == 0 and "grass is green" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no question"),
        (("{doc}",), "is a source"),
        (("{doc}", " "), "a question is empty"),
        (("{doc}", QUERY, "-n", "0"), "--count 0"),
        (("{doc}", QUERY, "--files", "--json"), "--files cannot be combined"),
    ],
)
def test_what_is_refused(
    lmi: Run, model: str, document: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = [text.format(doc=document) for text in arguments]
    result = lmi("find", *given, "-m", model)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_without_retrieval_heads(
    lmi: Run, model: str, document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "other"))
    remember_heads(resolve(model), RetrievalHeads((), 32), [])
    result = lmi("find", document, QUERY, "-m", model, "-n", "1")
    assert result.code == 0
    # Which sentence matters is not known, so the passage is shown whole.
    place, *lines = result.out.splitlines()
    assert place.startswith("line") and "".join(lines).strip()
