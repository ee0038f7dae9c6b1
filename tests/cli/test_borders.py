"""Around every border, what is foretold, what is done and what is tested are the same.

Dry run, ``qa`` and ``passkey`` are compared for lengths from half the trained length to some way
beyond it, and on both sides of where a prompt ceases to fit: whether the text fits, by which method
and window it is read, in which dtype. Two that cease at different lengths differ on one side.
"""

import json
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_model import TRAINED_LENGTH, build_tokenizer, save_model

from lmi_cli.native import cpu
from lmi_cli.tasks.needles import QUESTION
from lmi_cli.text.tokenizer import Tokenizer

Run = Callable[..., Any]
BORDER = range(TRAINED_LENGTH - 40, TRAINED_LENGTH + 3)
FAR = range(TRAINED_LENGTH // 2, TRAINED_LENGTH + 65, 32)


def facts(report: dict[str, Any]) -> dict[str, Any]:
    method = report["method"]
    numbers = ("name", "window", "sinks", "ceiling", "form", "bound_tokens")
    return {name: method[name] for name in numbers} | {"dtype": report["model"]["dtype"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model without a chat template, whose prompts are nearly those of the passkey test."""
    return str(save_model(tmp_path_factory.mktemp("plain") / "m", template=None))


def lengths(fits: Callable[[int], bool]) -> tuple[int, list[int]]:
    """The largest length that fits, found by halving, and lengths around it and far from it."""
    last = BORDER[bisect_left(BORDER, True, key=lambda length: not fits(length)) - 1]
    return last, sorted({*FAR, *BORDER[:: len(BORDER) - 1], *range(last - 2, last + 4)})


def text_of(tokens: int) -> str:
    """A text of so many tokens."""
    unit, tokenizer = " grass", Tokenizer(build_tokenizer())
    text = unit * tokens
    assert len(tokenizer.encode(text)) == tokens
    return text


@pytest.mark.slow
@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
def test_the_dry_run_foretells_what_qa_does(
    lmi: Run, model: str, plain: str, tmp_path: Path, template: bool
) -> None:
    path, forms = tmp_path / "x.txt", []
    asked = ("qa", path, "Why?", "-m", model if template else plain, "-n", 2, "--json")

    def foretell(tokens: int) -> Any:
        path.write_text(text_of(tokens))
        return json.loads(lmi(*asked, "--dry-run").out)

    last, tried = lengths(lambda tokens: foretell(tokens)["inspect"]["fits"])
    for tokens in tried:
        foretold, done = foretell(tokens), json.loads(lmi(*asked).out)
        assert foretold["tokens"]["read"] == done["tokens"]["read"] == tokens
        assert facts(foretold) == facts(done)
        assert foretold["inspect"]["fits"] == (done["method"]["form"] == "fits")
        expected = TRAINED_LENGTH if foretold["inspect"]["fits"] else TRAINED_LENGTH // 4
        assert done["method"]["window"] == expected
        assert (done["answers"][0]["answered_from"] == "whole") == foretold["inspect"]["fits"]
        forms.append(foretold["inspect"]["fits"])
    assert forms == [tokens <= last for tokens in tried]
    assert {last, last + 1} <= set(BORDER)


@pytest.mark.slow
def test_passkey_reads_as_qa_would(lmi: Run, plain: str, tmp_path: Path) -> None:
    """A prompt of the test is a document and the question; both end where a document would."""
    tokenizer = Tokenizer(build_tokenizer())
    question = len(tokenizer.encode(QUESTION))
    # qa puts its label around a question, passkey has none: the same tail in tokens.
    around = len(tokenizer.encode("\n\nQuestion:")) + len(tokenizer.encode("\nAnswer:"))
    asked = " grass" * (question - around)
    path, forms = tmp_path / "x.txt", []

    def qa_of(length: int, *options: str) -> Any:
        path.write_text(text_of(length - question))
        limits = ("-n", 12, "--json", "--no-memory", *options)
        return json.loads(lmi("qa", path, asked.strip(), "-m", plain, *limits).out)

    last, tried = lengths(lambda length: qa_of(length, "--dry-run")["inspect"]["fits"])
    for length in tried:
        qa = qa_of(length)
        grid = ("--lengths", length, "--depths", "0", "--json", "--no-memory")
        passkey = json.loads(lmi("passkey", *grid, "-m", plain).out)
        (used,) = passkey["method"]["by_length"]
        found = facts({"method": {"name": passkey["method"]["name"]} | used,
                       "model": passkey["model"]})  # fmt: skip
        assert found == facts(qa)
        forms.append(used["form"])
    assert [form == "fits" for form in forms] == [length <= last for length in tried]
    assert {last, last + 1} <= set(BORDER)


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_one_rule_chooses_the_dtype(
    lmi: Run,
    model: str,
    document: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    emulated: bool,
) -> None:
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: not emulated)
    asked = ("qa", document, "Why?", "-m", model, "-n", 1, "--json", "--dtype", dtype)
    foretold, done = (json.loads(lmi(*asked, *dry).out) for dry in (["--dry-run"], []))
    assert foretold["model"]["dtype"] == done["model"]["dtype"]
    assert foretold["memory"]["weights_bytes"] == done["memory"]["weights_bytes"]
    if dtype == "auto":
        assert done["model"]["dtype"] == ("float32" if emulated else "bfloat16")
