"""A method is one file and one row: a toy method runs through every command and a state file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import our_logits, precisely, random_ids, tiny_model
from toy_method import Toy

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.methods import METHODS, Full
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.heads import remember_heads

Run = Callable[..., Any]
QUESTION = "What is green?"
TOY = {"name": "toy", "window": 60, "toy_group": 3, "toy_reach": 30}
GIVEN = ["--method", "toy", "--window", "60", "--toy-group", "3", "--toy-reach", "30"]


@pytest.fixture(autouse=True)
def _row(monkeypatch: pytest.MonkeyPatch, lmi: Run, model: str) -> None:
    monkeypatch.setitem(METHODS, "toy", Toy)
    remember_heads(resolve(model), RetrievalHeads((AttentionHead(1, 0),), 32), [])


def ours(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report["method"].get(name) for name in TOY}


@pytest.mark.parametrize(
    "command",
    [("qa", QUESTION), ("summarize", "--strategy", "window"), ("perplexity",), ("inspect",)],
    ids=lambda command: command[0],
)
def test_commands_that_read(
    lmi: Run, model: str, long_document: Path, command: tuple[str, ...]
) -> None:
    name, *question = command
    length = [] if name in ("perplexity", "inspect") else ["-n", 3]
    result = lmi(name, long_document, *question, *GIVEN, "-m", model, "--json", *length)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert ours(report) == TOY
    # Chunks of 1,024: neighbours, groups with their neighbours, and three starting tokens.
    assert report["method"]["bound_tokens"] == (59 + 1024) + (89 + 1024) + 3
    if name != "inspect":
        dry = lmi(name, long_document, *question, *GIVEN, "-m", model, "--json", "--dry-run")
        assert json.loads(dry.out)["method"] == report["method"]


def test_chat(lmi: Run, model: str, long_document: Path) -> None:
    result = lmi("chat", long_document, *GIVEN, "-m", model, "-n", 3, stdin=b"Why?\nWhen?\n")
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) >= 2


def test_passkey_and_bench(lmi: Run, model: str) -> None:
    result = lmi("passkey", "--lengths", "600", "--depths", "50", *GIVEN, "-m", model, "--json")
    assert result.code == 0, result.err
    (used,) = json.loads(result.out)["method"]["by_length"]
    assert {name: used.get(name) for name in TOY if name != "name"} | {"name": "toy"} == TOY
    result = lmi("bench", "--depths", "100", "--decode", 2, *GIVEN, "-m", model, "--json")
    assert result.code == 0, result.err
    assert ours(json.loads(result.out)) == TOY


@pytest.mark.parametrize("answer_from", ["auto", "memory", "window"])
def test_a_state_file(
    lmi: Run, model: str, long_document: Path, tmp_path: Path, answer_from: str
) -> None:
    path = tmp_path / "book.lmi"
    result = lmi("read", long_document, *GIVEN, "-m", model, "--keep", "both", "-o", path)
    assert result.code == 0, result.err
    asked = (QUESTION, "-n", 6, "--json", "--answer-from", answer_from)
    stored = json.loads(lmi("qa", path, *asked).out)
    direct = json.loads(lmi("qa", long_document, *asked, *GIVEN, "-m", model).out)
    assert ours(stored) == TOY
    assert stored["answers"] == direct["answers"]
    expected = "passages" if answer_from == "auto" else answer_from
    assert stored["answers"][0]["answered_from"] == expected
    assert lmi("qa", path, QUESTION, "--toy-group", 4, "--method", "toy").code == 7
    assert lmi("qa", path, QUESTION, "--toy-group", 4).code == 7
    assert lmi("qa", path, QUESTION, "--toy-topk", 5, "-n", 2).code == 0
    assert lmi("read", "--append", path, long_document).code == 0
    assert "toy (window 60, toy_group 3, toy_reach 30)" in lmi("inspect", path).out


def test_options_of_another_method_are_refused(lmi: Run, model: str, document: Path) -> None:
    for arguments, said in (
        (["--toy-group", "3"], "--method lm-infinite has no option --toy-group"),
        (["--method", "toy", "--sinks", "3"], "--method toy has no option --sinks"),
        (["--method", "toy", "--toy-group", "0"], "--toy-group 0: the smallest is 1"),
        (["--method", "other"], "native, toy"),
    ):
        result = lmi("qa", document, QUESTION, *arguments, "-m", model)
        assert result.code == 2 and said in result.err
    assert "--toy-reach" in lmi("qa", "--help").out


def dense_logits(method: Toy, ids: np.ndarray) -> torch.Tensor:
    """Logits by one matrix a layer, from the definition of the toy method alone."""
    from lmi_cli.attention.ranges import QKV
    from lmi_cli.engine.language_model import Attention

    model = tiny_model("llama")
    with CausalLM(model) as lm, precisely(model):
        layers = lm.layers(len(ids))

        class Dense(Attention):
            def attend(self, layer: int, qkv: QKV) -> torch.Tensor:
                rotary = layers[layer].rotary
                count, folds = len(ids), qkv.query.shape[1] // qkv.key.shape[1]
                key, value = (x.repeat_interleave(folds, 1) for x in (qkv.key, qkv.value))
                place = torch.arange(count)

                def at(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
                    return rotary.rotate(x, rotary.phases(positions, x.dtype, x.device))

                group, window = method.toy_group, method.window
                near = at(qkv.query, place) @ at(key, place).mT * qkv.scale
                moved = place // group + window - window // group
                far = at(qkv.query, moved) @ at(key, place // group).mT * qkv.scale
                distance = place[:, None] - place
                seen = distance < window + method.toy_reach
                visible = (distance >= 0) & (seen | (place < 3))
                scores = torch.where(distance < window, near, far)
                return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value

        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        return lm.logits(lm.hidden(tokens, Dense()))[0]


@pytest.mark.parametrize("chunk", [1, 7, 16, 60])
def test_it_computes_what_it_says(chunk: int) -> None:
    ids, method = random_ids(60), Toy(window=8, toy_group=3, toy_reach=13)
    expected = dense_logits(method, ids)
    found = our_logits(tiny_model("llama"), method, ids, chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_within_its_window_it_is_the_stock_model() -> None:
    ids, method = random_ids(20), Toy(window=30, toy_group=3, toy_reach=13)
    full = our_logits(tiny_model("llama"), Full(), ids, 7)
    torch.testing.assert_close(our_logits(tiny_model("llama"), method, ids, 7), full)


def test_segments_over_one_track_keep_its_keys_once() -> None:
    with CausalLM(tiny_model("llama", torch.float32)) as lm:
        engine = Engine(lm, Toy(window=8, toy_group=3, toy_reach=13), 4)
        state = engine.start()
        list(engine.read(state, [random_ids(50)]))
        per_token = state.caches[0].span("near").key[0, :, 0].nbytes * 2
        assert state.nbytes <= 2 * engine.bound() * per_token
        assert len(state.caches[0].tracks) == 3
