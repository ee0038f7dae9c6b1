"""``perplexity``, ``bench``: their text, their files, their codes."""

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import TRAINED_LENGTH, save_model
from safetensors.torch import load_file, save_file
from sources.documents import make_pdf

Run = Callable[..., Any]


def test_perplexity_as_text_as_json_and_as_losses(
    lmi: Run, model: str, long_document: Path, tmp_path: Path
) -> None:
    target = tmp_path / "losses.npy"
    result = lmi("perplexity", long_document, "-m", model, "--nll-out", target)
    assert result.code == 0
    report = json.loads(lmi("perplexity", long_document, "-m", model, "--json").out)
    figures = report["perplexity"]
    losses = np.load(target, allow_pickle=False)
    assert losses.dtype == np.float32 and losses.shape == (report["tokens"]["read"],)
    assert np.isnan(losses[0]) and np.isfinite(losses[1:]).all()
    assert figures["nll"] == pytest.approx(losses[1:].astype(np.float64).mean())
    assert figures["tokens"] == len(losses) - 1
    assert f"nats/token    {figures['nll']:.4f}\n" in result.out
    assert f"perplexity    {figures['ppl']:.4f} ± {figures['ppl_se']:.4f}" in result.out
    assert f"bits/byte     {figures['bits_per_byte']:.4f}\n" in result.out
    assert f"{len(losses) - 1:,} scored of {len(losses):,} read" in result.out
    assert sum(step["tokens"] for step in figures["curve"]) == figures["tokens"]


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 6)])
def test_a_corpus_shorter_than_asked_for(
    lmi: Run, model: str, document: Path, tmp_path: Path, strict: tuple[str, ...], code: int
) -> None:
    target = tmp_path / "losses.npy"
    arguments = ["perplexity", document, "-m", model, "--length", "1k", "--nll-out", target]
    result = lmi(*arguments, *strict)
    assert result.code == code
    assert "fewer than 1,000" in result.err
    assert target.exists() is (code == 0) is bool(result.out)


def test_perplexity_tells_what_it_skipped(lmi: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The sky is blue.")
    (tmp_path / "b.bin").write_bytes(b"\x00\xff" * 99)
    result = lmi("perplexity", tmp_path, "-m", model)
    assert result.code == 0
    assert f"skipped {tmp_path / 'b.bin'}: " in result.err


def test_losses_that_cannot_be_written_are_refused_before_reading(
    lmi: Run, model: str, document: Path, tmp_path: Path
) -> None:
    for target, code in ((tmp_path, 2), (tmp_path / "absent" / "x.npy", 2)):
        result = lmi("perplexity", document, "-m", "nonesuch", "--nll-out", target)
        assert result.code == code and str(target) in result.err


def test_bench_as_a_table_with_ratios_and_bars(lmi: Run, model: str) -> None:
    result = lmi("bench", "--depths", "50,0.1k", "--decode", 3, "-m", model)
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][0] == "lm-infinite"
    assert sum("ratio" in line for line in lines) == 2
    assert sum("stock" in line for line in lines) == 4
    assert sum(any(word.startswith("#") for word in line) for line in lines) == 4
    (at,) = (place for place, line in enumerate(lines) if line[:2] == ["computed", "by,"])
    said = "passes: layer by layer by lmi, since torch computes the linear layers"
    assert [said in " ".join(line) for line in lines[at + 1 :]] == [True, False, True, False]
    assert lines[at + 1][0] == "prefill" and lines[at + 3][0] == "decode"
    assert "GFLOP/s" in result.err and "GB/s" in result.err


def poisoned(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (poisoned, "model.norm.weight contains values that are not finite"),
        (edit("tokenizer_config.json", chat_template="{{ 1/0 }}"), "chat template fails"),
        (edit("tokenizer_config.json", chat_template="{{ 'hello' }}"), "chat template"),
        (edit("config.json", auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
        (edit("config.json", model_type="gpt2"), "gpt2"),
        (edit("config.json", model_type="nonesuch"), "nonesuch"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "safetensors"),
    ],
    ids=["nan", "raising", "empty", "code", "gpt2", "unknown", "tokenizer", "weights"],
)
def test_a_model_that_cannot_be_used(
    lmi: Run, document: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = save_model(tmp_path / "model")
    damage(folder)
    result = lmi("qa", document, "Why?", "-m", folder, "-n", 3)
    assert result.code == 4, result.err
    assert said in result.err
    assert result.out == "" and "Traceback" not in result.err


def test_without_a_chat_template_the_prompt_is_plain(
    lmi: Run, document: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", template=None)
    result = lmi("qa", document, "Why?", "-m", folder, "-n", 3)
    assert result.code == 0
    assert "has no chat template" in result.err


def test_no_socket_is_opened_for_a_local_model(
    lmi: Run, model: str, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert lmi("qa", document, "Why?", "-m", model, "-n", 2).code == 0
    assert torch.is_inference_mode_enabled() is False


def test_the_first_start_opens_no_socket_either(
    lmi: Run, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks transformers about the model, which later starts do not; and a PDF names a page."""

    class Refused(socket.socket):
        def __init__(self, *arguments: object, **named: object) -> None:
            raise AssertionError("a socket was opened")

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a name was looked up")

    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr(socket, "socket", Refused)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pdf = tmp_path / "b.pdf"
    pdf.write_bytes(make_pdf([["See http://example.org for more."]]))
    folder = save_model(tmp_path / "m")
    result = lmi("qa", document, pdf, "Why?", "-m", folder, "-n", 2)
    assert result.code == 0, result.err


@pytest.mark.slow
def test_memory_stays_flat_while_a_text_is_scored(
    start: Callable[..., "subprocess.Popen[bytes]"], model: str
) -> None:
    """From 250 to 1,500 trained lengths of text; what grows is less than a few bytes a token."""
    peaks = []
    for lines in (4_000, 24_000):
        process = start("perplexity", "-", "-m", model, "--json", stdin=subprocess.PIPE)
        text = (b"%d: The grass is green. The sky is blue.\n" % number for number in range(lines))
        out, err = process.communicate(b"".join(text))
        assert process.returncode == 0, err
        report = json.loads(out)
        peaks.append((report["tokens"]["read"], report["memory"]["peak_rss_bytes"]))
    (few, low), (many, high) = peaks
    assert many > 4 * few > 400 * TRAINED_LENGTH
    assert high - low < 4 * (many - few) + 2**21  # the second term is what allocators keep
