"""``lmi summarize``: forms of output, options, state files, interruptions."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from chat_model import save_model

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.models.heads import remember_heads
from lmi_cli.tasks import finished, writing

Run = Callable[..., Any]
PLACES = ("amber", "birch", "cedar", "dune", "fjord", "grove", "heath")


def sentence(number: int) -> str:
    letters = "".join(chr(97 + int(digit)) for digit in f"{number:04d}")
    a, b, c, d, e, f, g = (place + letters for place in PLACES)
    return f"The {a} {b} of {c} lies beyond {d} and {e} in the {f} of {g}."


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.md"
    chapters = (
        f"# Of_{letter}\n\n" + " ".join(sentence(100 * n + s) for s in range(15)) + "\n\n"
        for n, letter in enumerate("abc")
    )
    path.write_text("".join(chapters))
    return path


@pytest.fixture(scope="module")
def writer() -> str:
    """A model that has room for parts of a text."""
    return str(save_model(Path(mkdtemp()) / "writer", max_position_embeddings=2048))


def test_a_summary_then_an_outline(lmi: Run, model: str, book: Path) -> None:
    result = lmi("summarize", book, "-m", model)
    assert result.code == 0, result.err
    summary, _, outline = result.out.partition("\n\nOutline\n\n")
    lines = summary.splitlines()
    assert len(lines) == 6 and all(line.endswith("]") for line in lines)
    assert [line for line in outline.splitlines() if line[0] != " "] == [
        "Of_a [lines 1-3]", "Of_b [lines 5-7]", "Of_c [lines 9-11]",
    ]  # fmt: skip
    assert "without a model" in result.err


def test_markdown(lmi: Run, model: str, book: Path) -> None:
    result = lmi("summarize", book, "-m", model, "--format", "markdown", "--length", "short")
    lines = result.out.splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith("book.md")
    assert len([line for line in lines if line.startswith("- The ")]) == 3
    assert "## Outline" in lines and "- **Of\\_a** (lines 1-3)" in lines


def test_json_in_both_ways(lmi: Run, model: str, book: Path) -> None:
    result = lmi("summarize", book, "-m", model, "--json")
    report = json.loads(result.out)
    assert report["summary"] == " ".join(each["text"] for each in report["statements"])
    assert report["strategy"] == report["method"]["name"] == "extract"
    assert [entry["titles"] for entry in report["outline"]] == [["Of_a"], ["Of_b"], ["Of_c"]]
    text = book.read_text()
    for each in report["statements"]:
        assert text[each["first"]["char"] : each["last"]["char"] + 1] == each["text"]
    again = json.loads(lmi("summarize", book, "-m", model, "--format", "json").out)
    assert again["statements"] == report["statements"]


def test_outline_only(lmi: Run, model: str, book: Path) -> None:
    whole = lmi("summarize", book, "-m", model).out
    outline = lmi("summarize", book, "-m", model, "--outline-only").out
    assert outline == whole.partition("\n\nOutline\n\n")[2]
    report = json.loads(lmi("summarize", book, "-m", model, "--outline-only", "--json").out)
    assert report["summary"] == "" and len(report["outline"]) == 3


def test_streamed_parts_come_first(lmi: Run, model: str, book: Path) -> None:
    whole = lmi("summarize", book, "-m", model).out
    summary, _, outline = whole.partition("\n\nOutline\n\n")
    streamed = lmi("summarize", book, "-m", model, "--stream").out
    assert streamed == f"{outline}\n{summary}\n"
    assert lmi("summarize", book, "-m", model, "--stream", "--outline-only").out == outline


def test_a_short_text_has_no_outline(lmi: Run, model: str) -> None:
    text = " ".join(sentence(n) for n in range(8))
    result = lmi("summarize", "-m", model, stdin=text.encode())
    assert result.code == 0
    assert len(result.out.splitlines()) == 3 and "Outline" not in result.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategy", "best"], "'best' for --strategy"),
        (["--length", "huge"], "'huge' for --length"),
        (["--format", "pdf"], "'pdf' for --format"),
        (["--focus", " "], "--focus is empty"),
        (["--focus", "x", "--strategy", "tree"], "cannot be combined with --strategy tree"),
        (["--stream", "--json"], "--stream prints text"),
        (["--json", "--format", "markdown"], "--json cannot be combined"),
        (["--focus", "x", "--no-memory"], "--no-memory leaves out"),
        (["--strategy", "window", "--outline-only"], "makes no outline"),
        (["--strategy", "window", "--format", "markdown"], "makes no outline"),
        (["--temperature", "-1"], "temperature -1"),
    ],
)
def test_options_that_are_wrong(
    lmi: Run, model: str, book: Path, options: list[str], said: str
) -> None:
    result = lmi("summarize", book, "-m", model, *options)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_options_that_do_not_apply(lmi: Run, model: str, book: Path) -> None:
    said = "do not apply here"
    assert said in lmi("summarize", book, "-m", model, "--window", 64).err
    assert said not in lmi("summarize", book, "-m", model).err
    result = lmi("summarize", book, "-m", model, "--window", 64, "--strategy", "window", "-n", 2)
    assert result.code == 0 and said not in result.err


def test_a_dry_run_shows_the_parts(lmi: Run, model: str, writer: str, book: Path) -> None:
    result = lmi("summarize", book, "-m", model, "--dry-run")
    assert "parts    of about 1,024 tokens (extract: no model reads them)" in result.out
    asked = ("summarize", book, "--strategy", "tree", "--dry-run", "--json", "-m")
    method = json.loads(lmi(*asked, writer).out)["method"]
    assert (method["name"], method["form"]) == ("tree", "parts")
    assert 100 < method["bound_tokens"] < 500
    assert lmi(*asked, model).code == 4


class TestStateFiles:
    @pytest.fixture
    def state(
        self, lmi: Run, model: str, book: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Path:
        # A cache of our own: other tests rely on a model whose heads are not known.
        monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
        remember_heads(resolve(model), RetrievalHeads((AttentionHead(1, 0),), 32), [])
        path = book.with_suffix(".lmi")
        assert lmi("read", book, "-o", path, "-m", model).code == 0
        return path

    @pytest.mark.parametrize("strategy", ["auto", "extract"])
    def test_as_from_the_document_without_a_model(
        self, lmi: Run, model: str, book: Path, state: Path, strategy: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        fresh = lmi("summarize", book, "-m", model).out
        monkeypatch.setattr("lmi_cli.models.load.load_known", lambda *_: pytest.fail("was loaded"))
        result = lmi("summarize", state, "--strategy", strategy)
        assert (result.code, result.out) == (0, fresh)

    def test_a_focus_uses_its_index(self, lmi: Run, model: str, book: Path, state: Path) -> None:
        result = lmi("summarize", state, "--focus", "amber")
        assert result.code == 0, result.err
        assert "by the model's attention" in result.err and "read " not in result.err
        again = lmi("summarize", book, "-m", model, "--focus", "amber")
        assert (again.code, again.out) == (0, result.out), again.err

    def test_a_damaged_one(self, lmi: Run, state: Path) -> None:
        data = bytearray(state.read_bytes())
        data[-100] ^= 1
        state.write_bytes(data)
        result = lmi("summarize", state, "--strategy", "extract")
        assert (result.code, result.out) == (7, "")


def test_a_focus_needs_no_retrieval_heads(
    lmi: Run, model: str, book: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "other"))
    remember_heads(resolve(model), RetrievalHeads((), 32), [])
    result = lmi("summarize", book, "-m", model, "--focus", "amber")
    assert result.code == 0 and "amber" in result.out


class TestWritten:
    @pytest.mark.parametrize("strategy", ["tree", "chain"])
    def test_it_runs(self, lmi: Run, writer: str, book: Path, strategy: str) -> None:
        result = lmi("summarize", book, "-m", writer, "--strategy", strategy, "--json")
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report["strategy"] == strategy
        assert report["tokens"]["generated"] > 0 and report["timing"]["prefill_s"] > 0
        assert "wrote" in result.err

    def test_from_a_state_file(self, lmi: Run, writer: str, book: Path) -> None:
        path = book.with_suffix(".lmi")
        assert lmi("read", book, "-o", path, "-m", writer).code == 0
        asked = ("--strategy", "tree", "--length", "short")
        fresh = lmi("summarize", book, "-m", writer, *asked).out
        assert lmi("summarize", path, *asked).out == fresh

    def test_interrupted_and_started_again(
        self, lmi: Run, writer: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target, parts = tmp_path / "out.md", tmp_path / "out.md.parts"
        asked = ("summarize", book, "-m", writer, "--strategy", "chain", "--length", "short")
        whole = lmi(*asked, "--format", "markdown").out
        add = finished.FinishedParts.add
        calls: list[int] = []

        def interrupted(self: Any, number: int, said: list[str]) -> None:
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(number)
            add(self, number, said)

        with monkeypatch.context() as patch:
            patch.setattr(finished.FinishedParts, "add", interrupted)
            assert lmi(*asked, "--format", "markdown", "-o", target).code == 130
        assert parts.exists() and not target.exists()
        result = lmi(*asked, "--format", "markdown", "-o", target)
        assert result.code == 0 and "2 parts come from an interrupted run" in result.err
        assert target.read_text() == whole and not parts.exists()

    def test_a_model_without_room(self, lmi: Run, model: str, book: Path) -> None:
        result = lmi("summarize", book, "-m", model, "--strategy", "tree")
        assert (result.code, result.out) == (4, "")
        assert "--strategy extract" in result.err

    def test_parts_on_stderr_while_they_are_written(
        self, lmi: Run, writer: str, book: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "LEAST_SUPPORT", 0.0)
        result = lmi("summarize", book, "-m", writer, "--strategy", "tree", "-v")
        assert result.err.count("\nOf_a [") >= 1
        assert "Of_a [" not in lmi("summarize", book, "-m", writer, "--strategy", "tree").err


def test_folders_and_files(lmi: Run, model: str, tmp_path: Path) -> None:
    root = tmp_path / "tool"
    (root / "src").mkdir(parents=True)
    (root / "README.md").write_text(" ".join(sentence(n) for n in range(12)))
    (root / "src" / "a.py").write_text(f'"""{sentence(20)}"""\n')
    (root / "src" / "b.py").write_text("x = 1\n")
    (root / "src" / "c.bin").write_bytes(b"\x00\x01")
    result = lmi("summarize", root, "-m", model)
    assert f"{root}/README.md line 1]" in result.out.partition("Outline")[0]
    outline = result.out.partition("Outline\n\n")[2].splitlines()
    assert outline[2].startswith(f"{root}/src/ (2 files) [")
    assert outline[3].startswith(f"  {root}/src/a.py [")
    assert outline[4] == f"    {sentence(20)} [line 1]"
    assert f"skipped {root}/src/c.bin" in result.err
