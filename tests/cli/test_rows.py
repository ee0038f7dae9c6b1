"""Files of rows: CSV by RFC 4180, and JSON lines."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.cli.console import require_writable
from lmi_cli.cli.rows import write_row_files, write_rows
from lmi_cli.errors import UsageError

Run = Callable[..., Any]

ROWS = [
    {"source": "a, b.txt", "text": 'He said "no".\r\n=1+1', "score": 0.1 + 0.2, "page": None},
    {"source": "ж.txt", "words": [1, 2], "cached": True, "score": math.inf},
]


def test_csv_follows_rfc_4180_and_keeps_text_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    data = path.read_bytes()
    assert data.startswith(b"source,text,score,page,words,cached\r\n") and data.endswith(b"\r\n")
    assert b'"a, b.txt","He said ""no"".\r\n=1+1",0.30000000000000004,,,\r\n' in data
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["text"] == ROWS[0]["text"]
    assert float(first["score"]) == ROWS[0]["score"]
    assert second == {
        "source": "ж.txt", "text": "", "score": "inf", "page": "", "words": "[1, 2]",
        "cached": "true",
    }  # fmt: skip


def test_json_lines_have_every_row_as_an_object(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS, form="jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "ж.txt" in lines[1]
    assert [json.loads(line) for line in lines] == [ROWS[0], ROWS[1] | {"score": None}]


def test_without_rows_there_is_a_header_and_nothing_else(tmp_path: Path) -> None:
    write_row_files(tmp_path / "r.csv", tmp_path / "r.jsonl", [], ["source", "score"])
    assert (tmp_path / "r.csv").read_bytes() == b"source,score\r\n"
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def test_text_that_is_not_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    write_row_files(tmp_path / "r.csv", tmp_path / "r.jsonl", [{"source": "\udcff"}])
    assert (tmp_path / "r.csv").read_bytes() == b"source\r\n?\r\n"


def test_no_result_replaces_what_is_read(
    lmi: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the two are called, and before anything is computed."""
    monkeypatch.chdir(tmp_path)
    text = Path("text.csv")
    text.write_text("a\n")
    Path("link").symlink_to(text)
    for command in (
        ["inspect", "text.csv", "--csv", "link"],
        ["find", text, "Why?", "-m", model, "--jsonl", tmp_path / "text.csv"],
        ["qa", text, "Why?", "-m", model, "-o", "link"],
        ["summarize", text, "-m", model, "-o", text],
        ["perplexity", text, "-m", model, "--csv", text],
        ["eval", text, "-m", model, "--csv", text],
    ):
        result = lmi(*command)
        assert result.code == 2 and "is read, so nothing else can be written there" in result.err
    assert text.read_text() == "a\n"


def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    require_writable(None, tmp_path / "r.csv")
    with pytest.raises(UsageError, match="there is no folder"):
        require_writable(None, tmp_path / "none" / "r.csv")
    with pytest.raises(UsageError, match="is to be written twice"):
        require_writable(tmp_path / "r", tmp_path / "." / "r")
