"""What ``lmi bench`` counts; how fast anything is, it only measures."""

from collections import Counter
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import save_model
from transformers import AutoConfig, AutoModelForCausalLM

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import forward
from lmi_cli.engine.probe import gemm_flops, read_bytes_per_s
from lmi_cli.errors import UsageError
from lmi_cli.memory import forget_peak_rss, peak_rss_bytes
from lmi_cli.methods import METHODS, Full, LMInfinite, MethodChoice
from lmi_cli.methods.base import visible_tokens
from lmi_cli.models.causal_lm import load_pretrained
from lmi_cli.models.costs import costs_of
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.models.stock import stock
from lmi_cli.native import attention as native_attention
from lmi_cli.native.step import Stepper
from lmi_cli.tasks.bench import BenchReport, Speed, bench
from lmi_cli.tasks.events import Progress, follow

pytestmark = pytest.mark.usefixtures("quick_probe")


def run(loaded: Loaded, depths: list[int], **arguments: object) -> list[object]:
    settings: dict[str, object] = {"decode": 3, "against": "stock", "chunk": 64}
    settings["choice"] = MethodChoice(given={"window": 100})
    events: list[object] = []
    task = bench(loaded, depths=depths, **settings | arguments)  # type: ignore[arg-type]
    report = follow(task, events.append)
    return [*events, report]


@pytest.mark.parametrize("against", ["stock", "full", "none"])
def test_rows(loaded: Loaded, against: str) -> None:
    events = run(loaded, [300, 80, 300], against=against)
    report = events[-1]
    assert isinstance(report, BenchReport)
    runners = ["lm-infinite"] + ([] if against == "none" else [against])
    assert [(row.runner, row.depth) for row in report.rows] == [
        (runner, depth) for runner in runners for depth in (80, 300)
    ]
    assert [event for event in events if isinstance(event, Speed)] == report.rows
    for row in report.rows:
        assert row.prefill_tok_per_s > 0 and row.decode_tok_per_s > 0
        assert row.prefill_share > 0 and row.decode_share > 0
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1] == Progress(380 * len(runners), 380 * len(runners))
    ours = {row.depth: row for row in report.rows if row.runner == "lm-infinite"}
    theirs = {row.depth: row for row in report.rows if row.runner == "stock"}
    if theirs:  # every key and value of what was read and generated
        each = costs_of(loaded.lm).visible_bytes * len(loaded.lm.layers(1))
        assert theirs[300].cache_bytes == each * (300 + 3)
        assert ours[300].cache_bytes < theirs[300].cache_bytes


@pytest.mark.parametrize("ours", ["decoder", "transformers"])
def test_the_stock_model_is_the_stock_model_and_ours_comes_back(loaded: Loaded, ours: str) -> None:
    ids = np.arange(40, dtype=np.int32)
    if ours == "transformers":
        lm = load_pretrained(loaded.files.folder, torch.float32, {"device_map": {"": "cpu"}})
        loaded = replace(loaded, lm=lm)
    expected = AutoModelForCausalLM.from_pretrained(loaded.files.folder, dtype=torch.float32)
    with stock(loaded) as model:
        assert model._model.config._attn_implementation == "sdpa"
        model.read(ids)
        first = model.last_token
        model.step()
    with torch.inference_mode():
        text = torch.arange(40)[None]
        for token in (first, model.last_token):
            assert expected(text, use_cache=False).logits[0, -1].argmax() == token
            text = torch.cat((text, torch.tensor([[token]])), 1)
    run(loaded, [40], against="none")


def test_costs_are_those_of_the_shapes(loaded: Loaded) -> None:
    costs = costs_of(loaded.lm)
    config = AutoConfig.from_pretrained(loaded.files.folder)
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    layer = hidden * size * (2 * heads + 2 * key_heads) + 3 * hidden * config.intermediate_size
    linear = layer * config.num_hidden_layers
    assert costs.linear_flops == 2 * linear
    assert costs.step_bytes == 4 * (linear + config.vocab_size * hidden)
    assert costs.visible_flops == 4 * heads * size
    assert costs.visible_bytes == 4 * 2 * key_heads * size


def test_visible_keys_are_those_of_the_definition(loaded: Loaded) -> None:
    (layer, *_) = loaded.lm.layers(256)
    for position in range(40):
        for sinks in (0, 3, 12):
            expected = sum(position - j < 9 or j < sinks for j in range(position + 1))
            assert visible_tokens(LMInfinite(9, sinks, 9), layer, position) == expected
        assert visible_tokens(Full(), layer, position) == position + 1
        heads = LMInfinite(9, 3, 9, dense_heads="calibrated", dense_key_heads="0.1")
        few = min(position + 1, 12)
        assert visible_tokens(heads, layer, position) == (position + 1 + few) / 2


def test_probes_find_something() -> None:
    cpu = torch.device("cpu")
    assert gemm_flops(torch.float32, cpu) > 1e6
    assert read_bytes_per_s(cpu) > 1e6


def test_the_peak_can_be_forgotten() -> None:
    forget_peak_rss()
    before = peak_rss_bytes()
    with mmap(-1, 1 << 26) as block:  # not from the C library, which may have some to spare
        block.write(bytes(1 << 26))
        high = peak_rss_bytes()
    # Half of it is enough to tell: the system may take other pages away meanwhile.
    assert high >= before + (1 << 25)
    if forget_peak_rss():
        assert peak_rss_bytes() < high


@pytest.mark.parametrize(
    "arguments", [{"depths": []}, {"depths": [0]}, {"decode": 0}, {"against": "nothing"}]
)
def test_what_cannot_be_measured_is_refused(loaded: Loaded, arguments: dict[str, object]) -> None:
    depths = arguments.pop("depths", [10])
    with pytest.raises(UsageError):
        run(loaded, depths, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"native"}))  # which is for other models
@pytest.mark.usefixtures("native")
def test_it_says_what_computed_its_passes(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is compared with the calls of the library; the first run is a warm-up."""
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    folder = save_model(tmp_path / "m", hidden_size=128, num_attention_heads=2, head_dim=64)
    loaded = load(resolve(str(folder)), Placement(dtype=dtype))
    calls = Counter[str]()

    def count(owner: Any, what: str) -> None:
        function = getattr(owner, what)

        def counted(*arguments: Any, **named: Any) -> Any:
            calls[f"{owner.__name__}.{what}"] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, what, counted)

    count(Stepper, "step")
    count(native_attention, "attend")
    count(forward, "attend")
    given = {} if "window" not in {o.name for o in METHODS[name].options} else {"window": 70}
    choice = MethodChoice(name, given)
    report = run(loaded, [64], against="none", choice=choice)[-1]
    assert isinstance(report, BenchReport)
    in_c = dtype == "bfloat16"
    assert (report.machine.layers_by, report.machine.linear_by) == ("lmi", "C" if in_c else "torch")
    prefill, decode = report.prefill, report.decode
    passes = -(-64 // (choice.build(70, 0).pass_tokens or 64))
    assert (prefill.passes, prefill.one_call, decode.passes) == (passes, 0, 3)
    for computed in (prefill, decode):
        measured = computed.attention.pop("torch, since the attention that keys get is measured", 0)
        layers = len(loaded.known.facts.layers)
        assert measured == (layers * computed.passes if name == "inf-llm" else 0)
        assert computed.one_call + sum(computed.layer_by_layer.values()) == computed.passes
        assert all(by.startswith("C" if in_c else "torch, since ") for by in computed.attention)
    attended = Counter(prefill.attention) + Counter(decode.attention)
    assert calls["Stepper.step"] == 2 * decode.one_call
    assert calls["lmi_cli.native.attention.attend"] == 2 * attended["C"]
    assert calls["lmi_cli.engine.forward.attend"] == 2 * attended.total()
    if not in_c:
        assert decode.layer_by_layer == {"torch computes the linear layers": 3}
        assert set(decode.attention) == {"torch, since tensors are float32 on cpu"}
