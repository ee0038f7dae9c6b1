"""Prompts in the words of a file: read as LongBench reads them, refused where they cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.errors import UsageError
from lmi_cli.evaluation.item import EvalItem
from lmi_cli.evaluation.words import Words, WordsFile, words_for

ITEM = EvalItem("t", 0, "r.jsonl line 1", "Who?", text="Text", fields={"OPTION_A": "one"})


def words(folder: Path, prompt: str) -> Words:
    path = folder / "prompts.json"
    path.write_text(json.dumps({"t": prompt}))
    return words_for(WordsFile(path).require("t"), ITEM)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Read.\n\n{context}\n\nQ: {input}\nA:", Words("Read.\n\n", "\n\nQ: ", "\nA:")),
        ("{context}{input}Next:\n", Words("", "", "Next:\n")),
        ("R: {context}\nSum up.\n", Words("R: ", "\nSum up.\n", asks=False)),
        ("{context}", Words("", "", asks=False)),
        ("{context} {question} {OPTION_A}", Words("", " ", " one")),
        ("{{x}} {context}", Words("{x} ", "", asks=False)),
    ],
)
def test_words(tmp_path: Path, prompt: str, expected: Words) -> None:
    found = words(tmp_path, prompt)
    assert found == expected
    question = "Who?" if found.asks else ""
    whole = found.before + "Text" + found.lead + question + found.trail
    fields = {"context": "Text", "input": "Who?", "question": "Who?", "OPTION_A": "one"}
    assert whole == prompt.format(**fields)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{input} {context}", "once"),
        ("{context} {context}", "once"),
        ("{context} {input} {question}", "once"),
        ("no text", "once"),
        ("{context", "expected '}'"),
        ("{context} {other}", "{other}, which r.jsonl line 1 does not have"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, prompt: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        words(tmp_path, prompt)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not an object with a text for each task"),
        (b'{"t": 5}', "not an object with a text for each task"),
        (b'{"u": "{context}"}', "has no prompt for t"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "prompts.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        WordsFile(path).require("t")
    assert said in caught.value.message


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    assert words(tmp_path, "\ud800{context}{input}") == Words("\ufffd", "")


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    found: list[Any] = []
    for prompt in ("{context}", "{context} ", "{context}"):
        words(tmp_path, prompt)
        found.append(WordsFile(tmp_path / "prompts.json").sha256)
    assert found[0] == found[2] != found[1]
