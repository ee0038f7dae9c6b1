"""``lmi inspect`` and ``--dry-run``."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from chat_model import TRAINED_LENGTH, save_model


def _totals(folder: Path, text: str) -> int:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return len(backend.encode(text, add_special_tokens=False).ids)


def test_a_tree_with_tokens_totals_and_the_forecast(
    lmi: Callable[..., object], model: str, tmp_path: Path
) -> None:
    texts = {"a/b/one.md": "The sky is blue.\n", "a/b/two.md": "Green.\n" * 99, "c.md": "12 x\n"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\x00")
    # No other test reads with this window, so no speed of it is known.
    target = tmp_path.with_name("rows.csv")
    result = lmi("inspect", tmp_path, "-m", model, "--window", 61, "--csv", target)
    assert result.code == 0, result.err
    counts = {name: _totals(Path(model), text) for name, text in texts.items()}
    with target.open(newline="") as file:
        rows = {str(Path(row["origin"]).relative_to(tmp_path)): row for row in csv.DictReader(file)}
    skipped = rows.pop("x.png")
    assert skipped["skipped"].startswith("unsupported") and skipped["tokens"] == ""
    assert {name: int(row["tokens"]) for name, row in rows.items()} == counts
    refused = lmi("inspect", model, "--csv", target)
    assert refused.code == 2 and "has no rows" in refused.err
    for name, count in counts.items():
        assert f"{count:>13,}  " in result.out and Path(name).name in result.out
    inner = counts["a/b/one.md"] + counts["a/b/two.md"]
    assert f"{inner:>13,}    a/b/\n" in result.out
    assert f"({sum(counts.values()):,} of text" in result.out
    assert "skipped  1 unsupported: " in result.out
    assert "x.png: unsupported: " in result.out
    assert "read with lm-infinite (window 61, sinks 10, ceiling 61" in result.out
    assert "time     unknown" in result.out
    assert result.err.startswith("tokenised in ")


def test_the_object_and_that_it_is_the_stock_count(
    lmi: Callable[..., object], model: str, document: Path
) -> None:
    asked = ("summarize", document, "--strategy", "window", "-m", model, "-n", 99)
    asked += ("--dry-run", "--json")
    report = json.loads(lmi(*asked).out)
    count = _totals(Path(model), document.read_text())
    assert report["command"] == "summarize"
    assert report["tokens"] == {"read": count, "visible": None, "stored": 0, "generated": 0}
    assert report["sources"][0]["tokens"] == count
    assert report["model"]["trained_length"] == TRAINED_LENGTH
    assert report["model"]["native_windows"] == [None, None]
    assert report["inspect"] | {"notes": []} == {
        "fits": True,
        "chars": len(document.read_text()),
        "tokenizer": "tokenizers",
        "notes": [],
    }
    assert report["timing"]["prefill_s"] is None


@pytest.mark.parametrize(
    ("command", "window"), [("qa", 64), ("summarize", 64), ("perplexity", TRAINED_LENGTH)]
)
def test_a_dry_run_reads_as_the_command_would_and_loads_nothing(
    lmi: Callable[..., object],
    model: str,
    long_document: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    window: int,
) -> None:
    monkeypatch.setattr("lmi_cli.models.load.load_known", lambda *_: pytest.fail("was loaded"))
    question = {"qa": ["What is green?"], "summarize": ["--strategy", "window"]}.get(command, [])
    result = lmi(command, long_document, *question, "-m", model, "--dry-run", "--json")
    report = json.loads(result.out)
    assert (report["command"], report["dry_run"]) == (command, True)
    assert report["method"]["window"] == window
    assert report["inspect"]["fits"] is False


def test_the_forecast_is_what_a_run_reports(
    lmi: Callable[..., object], model: str, long_document: Path
) -> None:
    asked = ("perplexity", long_document, "-m", model, "--window", 32, "--dtype", "float32")
    asked += ("--chunk", 16, "--json")
    said, done = json.loads(lmi(*asked, "--dry-run").out), json.loads(lmi(*asked).out)
    assert said["tokens"]["read"] == done["tokens"]["read"]
    assert {**said["method"]} == done["method"]
    assert said["memory"]["weights_bytes"] == done["memory"]["weights_bytes"]
    assert done["memory"]["cache_bytes"] <= said["memory"]["cache_bytes"]
    assert said["memory"]["cache_bytes"] <= 1.2 * done["memory"]["cache_bytes"]


def test_a_model_folder(lmi: Callable[..., object], model: str) -> None:
    result = lmi("inspect", model, "--dtype", "float32")
    assert result.code == 0, result.err
    alike = "layers          all 2: rope: lm-infinite, window 64 + 10 starting tokens\n"
    for said in ("llama, 2 layers", "256 tokens", alike, "256 bytes/token"):
        assert said in result.out
    report = json.loads(lmi("inspect", model, "--json", "--dtype", "bfloat16").out)
    assert report["model"]["cache_bytes_per_token"] == 2 * 2 * 2 * 8 * 2
    assert report["model"]["kind"] == "folder"
    asked = ("inspect", model, "--json", "--dtype", "bfloat16", "--quantize", "int8")
    eight = json.loads(lmi(*asked).out)
    # One byte a weight, and a scale of two bytes for each 32 of them.
    assert eight["memory"]["weights_bytes"] == int(report["model"]["weights"] * 17) // 16
    assert lmi("inspect", model, "--quantize", "int3").code == 2


def edited(folder: Path, **changes: object) -> Path:
    """A saved model whose configuration says something else."""
    path = save_model(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_native_windows_are_shown(lmi: Callable[..., object], tmp_path: Path) -> None:
    folder = edited(tmp_path / "m", model_type="mistral", sliding_window=32, head_dim=8)
    result = lmi("inspect", folder)
    assert "all 2: rope: keeps its own window of 32" in result.out
    report = json.loads(lmi("inspect", folder, "--json").out)
    assert report["method"]["bound_tokens"] == 31 + 1024


def test_the_layers_of_a_hybrid_are_drawn(lmi: Callable[..., object], tmp_path: Path) -> None:
    """And the second look, which transformers has no part in, shows the same."""
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
    folder = edited(
        tmp_path / "m",
        model_type="gemma3_text",
        head_dim=8,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": scaled,
        },
    )
    first, second = lmi("inspect", folder), lmi("inspect", folder)
    assert first.out == second.out
    assert (
        "layers          wg\n"
        "                w  1  rope: keeps its own window of 32\n"
        "                g  1  rope: lm-infinite, window 64 + 10 starting tokens\n"
    ) in first.out
    assert "trained length  256 tokens (linear)\n" in first.out
    report = json.loads(lmi("inspect", folder, "--json").out)
    sliding, full = report["layers"]
    assert (sliding["index"], sliding["native_window"], sliding["as_trained"]) == (0, 32, True)
    assert (full["positions"], full["native_window"], full["as_trained"]) == ("rope", None, False)
    assert [kept["tokens"] for kept in full["keeps"]] == [64, 10]
    assert report["model"]["length"]["scaling"] == "linear"


def test_chunks_are_shown(lmi: Callable[..., object], tmp_path: Path) -> None:
    folder = edited(
        tmp_path / "m",
        model_type="llama4_text",
        head_dim=8,
        attention_chunk_size=32,
        no_rope_layers=[1, 0],
        moe_layers=[],
        intermediate_size_mlp=64,
    )
    assert (
        "layers          cn\n"
        "                c  1  rope: keeps its own chunks of 32\n"
        "                n  1  no positions: lm-infinite, window 64 + 10 starting tokens\n"
    ) in lmi("inspect", folder).out
    narrow = " ".join(lmi("inspect", folder, "--window", "20").out.split())
    assert "rope, own chunks of 32: lm-infinite, window 20 + 10 starting tokens" in narrow
    chunked, other = json.loads(lmi("inspect", folder, "--json").out)["layers"]
    assert (chunked["native_window"], chunked["chunked"], chunked["as_trained"]) == (32, True, True)
    assert (other["native_window"], other["chunked"]) == (None, False)


def test_wrong_uses(lmi: Callable[..., object], model: str, document: Path, tmp_path: Path) -> None:
    assert lmi("inspect", model, "-m", model).code == 2
    assert lmi("inspect", document, "-m", model, "--dtype", "int3").code == 2
    assert lmi("inspect").code == 2
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0")
    assert lmi("inspect", tmp_path / "x.gguf").code == 4
    folder = save_model(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    result = lmi("inspect", folder)
    assert result.code == 4 and "learned absolute positions" in result.err


def test_a_model_that_was_used_before_takes_neither_torch_nor_transformers(
    lmi: Callable[..., object], model: str, document: Path
) -> None:
    assert lmi("inspect", document, "-m", model).code == 0
    code = (
        "import sys; from lmi_cli.cli import app; "
        f"sys.argv = ['lmi', 'inspect', {str(document)!r}, '-m', {model!r}]; app.run(); "
        "sys.exit(len({'torch', 'transformers', 'pypdf'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_memory_stays_flat_on_a_line_without_end(
    start: Callable[..., "subprocess.Popen[bytes]"], model: str
) -> None:
    peaks = []
    for megabytes in (2, 18):
        process = start("inspect", "-", "-m", model, "--json", stdin=subprocess.PIPE)
        out, _ = process.communicate(b"wordswithoutspaces," * (megabytes * 2**20 // 19))
        peaks.append(json.loads(out)["memory"]["peak_rss_bytes"])
    assert peaks[1] - peaks[0] < 8 * 2**20
