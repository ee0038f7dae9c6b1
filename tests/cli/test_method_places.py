"""Every method, wherever the weights lie and whoever runs the layers.

Options that make a method forget within these texts are given to each that has them, so that a new
one is tested here by being in the table of methods.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_model import save_model

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.methods import METHODS
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
Options = tuple[object, ...]
QUESTION = "What is green?"
SMALL = {"window": 250, "sinks": 5, "group": 4}


def options_of(name: str) -> Options:
    """``--method`` and those of ``SMALL`` that the method has."""
    flags = {option.name: option.flag for option in METHODS[name].options}
    given = [(flags[option], value) for option, value in SMALL.items() if option in flags]
    return ("--method", name, *(part for pair in given for part in pair))


ROWS: dict[str, Options] = {
    **{name: options_of(name) for name in METHODS if name != "native"},
    # Its window has to hold the prompt as well.
    "truncate": ("--method", "truncate", "--window", 400),
    "truncate, middle": ("--method", "truncate", "--window", 400, "--truncation-side", "middle"),
    **{
        f"full, {kind}": ("--method", "full", "--rope-scaling", kind)
        for kind in ("linear", "dynamic", "yarn", "truncated")
    },
}
CASES = [pytest.param(options, id=name) for name, options in ROWS.items()]


def parameters(report: dict[str, Any]) -> dict[str, Any]:
    """The method, without the capacity of the cache, which follows from the size of the chunks."""
    return {name: value for name, value in report["method"].items() if name != "bound_tokens"}


@pytest.fixture(autouse=True)
def _heads(lmi: Run, model: str) -> None:
    remember_heads(resolve(model), RetrievalHeads((AttentionHead(1, 0),), 32), [])


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Options]:
    """Our own decoder; transformers; transformers with most weights on the disk."""
    float32 = ("--dtype", "float32")
    offloaded = ("--max-memory", "cpu=30KB", "--offload-folder", tmp_path / "offload")
    return {
        "lmi": (*float32, "--device", "cpu"),
        "transformers": (*float32, "--max-memory", "cpu=8GiB"),
        "offloaded": (*float32, "--device-map", "auto", *offloaded),
    }


@pytest.mark.parametrize("options", CASES)
def test_losses_are_the_same(
    lmi: Run,
    model: str,
    long_document: Path,
    tmp_path: Path,
    places: dict[str, Options],
    options: Options,
) -> None:
    found, devices = {}, {}
    for place, given in places.items():
        path = tmp_path / f"{place}.npy"
        arguments = ("perplexity", long_document, "-m", model, *options, *given, "--json")
        result = lmi(*arguments, "--nll-out", path)
        if "middle" in options:
            assert result.code == 2 and "the middle cannot be left out" in result.err
            return
        assert result.code == 0, result.err
        found[place] = np.load(path)
        devices[place] = set(json.loads(result.out)["model"]["device_map"].values())
    assert "disk" in devices["offloaded"], "nothing was offloaded"
    assert devices["lmi"] == devices["transformers"] == {"cpu"}
    assert np.isfinite(found["lmi"][1:]).all() and len(found["lmi"]) > 1000
    for place in ("transformers", "offloaded"):
        np.testing.assert_allclose(found[place], found["lmi"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", CASES)
def test_a_state_file_is_used_wherever_the_weights_lie(
    lmi: Run,
    model: str,
    long_document: Path,
    tmp_path: Path,
    places: dict[str, Options],
    options: Options,
) -> None:
    asked = (QUESTION, "-n", 6, "--json", "--answer-from", "window")
    reports = []
    for reader, askers in (("lmi", ("lmi", "offloaded")), ("offloaded", ("transformers",))):
        path = tmp_path / f"{reader}.lmi"
        read = ("read", long_document, "-m", model, *options, *places[reader], "-o", path)
        result = lmi(*read, "--answer-from", "window")
        assert result.code == 0, result.err
        for asker in askers:
            result = lmi("qa", path, *asked, *places[asker])
            assert result.code == 0, result.err
            reports.append(json.loads(result.out))
    assert reports[0]["answers"][0]["tokens"] > 0
    for report in reports[1:]:
        assert parameters(report) == parameters(reports[0])
        assert report["answers"] == reports[0]["answers"]


@pytest.mark.parametrize("options", CASES)
def test_bench_says_who_computed(
    lmi: Run,
    model: str,
    places: dict[str, Options],
    options: Options,
) -> None:
    for place, given in places.items():
        limits = ("--depths", 100, "--decode", 2, "--against", "none")
        result = lmi("bench", *limits, "-m", model, *options, *given, "--json")
        if "middle" in options:
            assert result.code == 2 and "the middle cannot be left out" in result.err
            continue
        assert result.code == 0, result.err
        by = "lmi" if place == "lmi" else "transformers"
        report = json.loads(result.out)
        assert report["machine"]["layers_by"] == by
        because = (
            "torch computes the linear layers" if by == "lmi" else "transformers runs the layers"
        )
        assert report["computed"]["decode"]["layer_by_layer"] == {because: 2}


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (
            ("--max-memory", "cpu=8GiB", "--quantize", "int8"),
            2,
            "weights of few bits are for models",
        ),
        (("--device-map", "everywhere"), 2, "device map 'everywhere' is not known"),
        (("--device", "cuda:99"), 2, "device 'cuda:99' cannot be used"),
        (("--window", 0), 2, "--window"),
    ],
    ids=["quantized", "map", "device", "window"],
)
def test_what_cannot_be_is_refused_in_one_line(
    lmi: Run, model: str, long_document: Path, options: Options, more: Options, code: int, said: str
) -> None:
    result = lmi("qa", long_document, QUESTION, "-m", model, *options, *more)
    assert (result.code, result.out) == (code, "")
    assert said in result.err and "Traceback" not in result.err
    assert sum(line.startswith("lmi: ") for line in result.err.splitlines()) == 1


@pytest.mark.parametrize("options", CASES)
def test_frequencies_that_are_scaled_already(
    lmi: Run, long_document: Path, tmp_path: Path, options: Options
) -> None:
    """Methods that would scale them once more are refused; for all others they are no obstacle."""
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}
    scaled = save_model(tmp_path / "scaled", rope_scaling=scaling)
    result = lmi("perplexity", long_document, "-m", scaled, *options)
    if "--rope-scaling" in options:
        assert (result.code, result.out) == (4, "")
        assert "are scaled already, so --rope-scaling" in result.err
        assert len(result.err.splitlines()) <= 2
    else:
        assert result.code == (2 if "middle" in options else 0), result.err
