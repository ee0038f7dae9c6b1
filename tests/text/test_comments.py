"""Comments in source files."""

import time

import pytest

from lmi_cli.text.comments import comments


def said(text: str, suffix: str) -> list[str]:
    return [" ".join(content.split()) for _, _, content in comments(text, suffix=suffix)]


@pytest.mark.parametrize(
    ("suffix", "text", "found"),
    [
        (".py", '"""What it\nis for."""\nx = """\n"""\n', ["What it is for."]),
        (".py", 'glob("/etc/*.x")\ndef f():\n    """Adds."""\ng("*/5")\n', ["Adds."]),
        (".py", 'x = """never closed\n# A comment.\n', ["A comment."]),
        (".sh", "#!/bin/sh\n# Builds\n# it.\nmake # all\n", ["Builds it."]),
        (".c", "/* SPDX-License-Identifier: MIT */\n/**\n * Adds\n * two.\n */\n", ["Adds two."]),
        (".c", "// Copyright 2020\n\n// Parses it.\nint x; /* twice */", ["Parses it.", "twice"]),
        (".c", "#include <x>\n#define Y 1\n--count;\n#elif Z\n", []),
        (".rs", "/// A point.\n#[derive(Debug)]\npub struct P;\n", ["A point."]),
        (".css", "#main-nav { --x: 1 }\n/* Colours. */", ["Colours."]),
        (".sql", "-- Creates a table.\nSELECT 1;\n", ["Creates a table."]),
        (".f90", "! Solves it.\ncall x\n", ["Solves it."]),
        (".json", '{"a": "// no"}\n', []),
        (".c", "/* never closed", []),
        (".py", "", []),
    ],
)
def test_comments(suffix: str, text: str, found: list[str]) -> None:
    assert said(text, suffix) == found


def test_places() -> None:
    text = "x = 1;\n// One.\ny = 2;\n/* Two. */\n"
    places = [text[begin:end] for begin, end, _ in comments(text, suffix=".c")]
    assert places == ["// One.\n", "/* Two. */"]
    assert [content for _, _, content in comments(text, 8, suffix=".c")] == ["Two."]


@pytest.mark.parametrize("suffix", [".py", ".c", ".sql"])
@pytest.mark.parametrize("unit", ["/*", '"""', "'''", "#\n", "//", "/**/", '"""a"""'])
def test_linear_time(unit: str, suffix: str) -> None:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        list(comments(unit * count, suffix=suffix))
        return time.perf_counter() - started

    seconds(1_000)
    assert seconds(80_000) < 40 * max(seconds(8_000), 0.002)
