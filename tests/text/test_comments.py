"""Comments in source files."""

import time

import pytest

from lmi_cli.text.comments import comments


def said(text: str) -> list[str]:
    return [" ".join(content.split()) for _, _, content in comments(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""What it\nis for."""\nx = """\n"""\n', ["What it is for."]),
        ("#!/bin/sh\n# Builds\n# it.\nmake # all\n", ["Builds it."]),
        ("/* SPDX-License-Identifier: MIT */\n/**\n * Adds\n * numbers.\n */\n", ["Adds numbers."]),
        ("// Copyright 2020\n\n// Parses it.\nint x; /* twice */", ["Parses it.", "twice"]),
        ("#include <x>\n#define Y 1\nint a;\n", []),
        ("-- Creates a table.\nSELECT 1;\n; Lisp it is.\n", ["Creates a table.", "Lisp it is."]),
        ('x = """never closed\n# A comment.\n', ["A comment."]),
        ("/* never closed", []),
        ("", []),
    ],
)
def test_comments(text: str, found: list[str]) -> None:
    assert said(text) == found


def test_places() -> None:
    text = "x = 1\n# One.\ny = 2\n/* Two. */\n"
    places = [text[begin:end] for begin, end, _ in comments(text)]
    assert places == ["# One.\n", "/* Two. */"]
    assert [content for _, _, content in comments(text, 8)] == ["Two."]


@pytest.mark.parametrize("unit", ["/*", '"""', "'''", "#\n", "//", "/**/", '"""a"""'])
def test_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        list(comments(unit * count))
        return time.perf_counter() - started

    seconds(1_000)
    assert seconds(80_000) < 40 * max(seconds(8_000), 0.002)
