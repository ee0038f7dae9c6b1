"""Every family of the table: against its stock model, against the definition, and as a module."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted_reference import dense_logits
from reference import Lambda
from tiny_models import our_logits, precisely, random_ids, stock_logits, tiny_model, trace
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from lmi_cli.cache import statefile
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.sampling import Sampling
from lmi_cli.engine.tally import Tally
from lmi_cli.errors import ModelError
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.families import FAMILIES, candidates, family_of, layer_specs
from lmi_cli.models.selfcheck import check, family_by_trying
from lmi_cli.models.shape import base_model, decoder_layers, shape_of
from lmi_cli.native import library

COUNT, CHUNK = 48, 7
IDS = random_ids(COUNT)
METHOD = LMInfinite(10, 4, 17)
MODELS = sorted({*FAMILIES, "bloom-6-heads", "falcon-alibi", "falcon-new", "mpt-6-heads"})

# What these families compute in float32 or narrower whatever the dtype, in ways that the tests do
# not raise to float64: the growth of queries, and frequencies computed in every pass.
IN_FLOAT32 = {"ministral3": 1e-7, "phimoe": 1e-5}


@cache
def model_of(name: str) -> PreTrainedModel:
    return tiny_model(name)


@cache
def stock(name: str) -> Tensor:
    return stock_logits(model_of(name), IDS)


@cache
def ours(name: str) -> Tensor:
    """Past the window, in chunks."""
    return our_logits(model_of(name), METHOD, IDS, CHUNK)


@pytest.mark.parametrize("name", MODELS)
class TestEveryFamily:
    def test_equals_stock_up_to_the_window(self, name: str) -> None:
        tolerance = IN_FLOAT32.get(name, 1e-10)
        for method, chunk in ((Full(), CHUNK), (LMInfinite(COUNT, 4, COUNT), COUNT)):
            logits = our_logits(model_of(name), method, IDS, chunk)
            assert logits.dtype == torch.float64
            assert not logits.requires_grad
            torch.testing.assert_close(logits, stock(name), rtol=0, atol=tolerance)

    def test_equals_the_definition_past_the_window(self, name: str) -> None:
        """In chunks and in one."""
        reference = dense_logits(model_of(name), IDS, Lambda(10, 4, 17))
        whole = our_logits(model_of(name), METHOD, IDS, COUNT)
        for logits in (ours(name), whole):
            torch.testing.assert_close(logits, reference, rtol=0, atol=1e-10)
        assert (reference - stock(name)).abs().max() > 1e-3, "the window is not felt"

    def test_no_token_sees_a_later_one(self, name: str) -> None:
        changed, at = IDS.copy(), 30
        changed[at] = IDS[at] % 60 + 3
        logits = our_logits(model_of(name), METHOD, changed, CHUNK)
        # Experts compute all tokens of a pass that chose them at once, which rounds differently.
        torch.testing.assert_close(logits[:at], ours(name)[:at], rtol=0, atol=1e-12)
        assert (logits[at] - ours(name)[at]).abs().max() > 1e-3

    def test_no_trace_and_no_mask(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """With equal positions a stock mask would take the text for packed sequences."""

        def never(*_: object, **__: object) -> None:
            pytest.fail("a stock mask was built")

        model = model_of(name)
        for implementation in list(ALL_MASK_ATTENTION_FUNCTIONS):
            monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, implementation, never)
        before = trace(model)
        with CausalLM(model) as lm, precisely(model):
            engine = Engine(lm, METHOD, CHUNK)
            list(engine.read(engine.start(), [IDS[:20]]))
            assert trace(model) != before
        assert trace(model) == before

    def test_the_first_layers_alone(self, name: str) -> None:
        model = model_of(name)
        layers_name, layers = decoder_layers(model)
        with CausalLM(model) as lm, precisely(model):
            engine = Engine(lm, Full(), CHUNK, depth=1)
            state = engine.start()
            parts = [engine.forward(state, part) for part in np.split(IDS, [CHUNK])]
            hidden = lm.logits(torch.cat(parts))
        assert decoder_layers(model)[1] is layers
        try:
            setattr(base_model(model), layers_name, layers[:1])
            first = stock_logits(model, IDS)
        finally:
            setattr(base_model(model), layers_name, layers)
        tolerance = IN_FLOAT32.get(name, 1e-10)
        torch.testing.assert_close(hidden, first, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
class TestStreams:
    """What has been read goes on, in memory or through a file."""

    def test_decoding_after_reading_equals_stock(self, name: str) -> None:
        model, expected = model_of(name), IDS[:20]
        for _ in range(8):
            following = stock_logits(model, expected)[-1].argmax().numpy()
            expected = np.append(expected, following.astype(np.int32))
        with CausalLM(model) as lm, precisely(model):
            engine = Engine(lm, LMInfinite(40, 4, 40), CHUNK)
            state = engine.start()
            hidden = [engine.forward(state, part) for part in np.split(IDS[:20], [7, 14])]
            events = engine.decode(
                state, hidden[-1][-1], stop_ids=frozenset(), limit=8, sampling=Sampling()
            )
            answer = [event.token for event in events]
        assert answer == expected[20:].tolist()

    def test_a_state_file_in_between(self, name: str, tmp_path: Path) -> None:
        model, path = model_of(name), tmp_path / "state"
        with CausalLM(model) as lm, precisely(model):
            engine = Engine(lm, METHOD, CHUNK)
            state = engine.start()
            list(engine.read(state, [IDS[:28]]))
            statefile.write(path, state.fork().save(), {})
            restored = engine.start()
            devices = [lm.layer_device(layer) for layer in range(shape_of(model.config).layers)]
            restored.restore(statefile.read(path)[1], devices)
            parts = [engine.forward(restored, part) for part in np.split(IDS[28:], [7, 14])]
            logits = lm.logits(torch.cat(parts))
        torch.testing.assert_close(logits, ours(name)[28:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "llama-yarn", "phi3-longrope", "gemma3_text"])
def test_loading_in_bfloat16_leaves_the_frequencies_alone(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, torch.float32)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    for wide, narrow in zip(layer_specs(model, 64), layer_specs(loaded, 64), strict=True):
        assert wide.rotary.inv_freq.dtype == narrow.rotary.inv_freq.dtype == torch.float32
        assert torch.equal(wide.rotary.inv_freq, narrow.rotary.inv_freq)


def windows(name: str, **changes: Any) -> list[int | None]:
    model = tiny_model(name, **changes)
    return [layer.native_window for layer in layer_specs(model, 64)]


def test_native_windows() -> None:
    assert windows("llama") == [None, None]
    assert windows("mistral") == [None, None]
    assert windows("mistral-sliding") == [12, 12]
    assert windows("gemma3_text") == [12, None, 12, None]
    assert windows("cohere2") == [12, None]
    assert windows("qwen2", sliding_window=12) == [None, None]
    assert windows("qwen2", sliding_window=12, use_sliding_window=True, max_window_layers=1) == [
        None,
        12,
    ]


def test_frequency_sets() -> None:
    """Layers of one kind share one object, so that their phases are computed once."""
    one, other = layer_specs(tiny_model("llama"), 64)
    assert one.rotary is other.rotary
    local, wide, again, _ = layer_specs(tiny_model("gemma3_text"), 64)
    assert local.rotary is again.rotary
    assert not torch.equal(local.rotary.inv_freq, wide.rotary.inv_freq)
    assert [layer.rotary is None for layer in layer_specs(tiny_model("smollm3"), 64)] == [
        False,
        True,
    ]
    assert [layer.rotary is None for layer in layer_specs(tiny_model("cohere2"), 64)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo"])
def test_learned_positions_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="learned absolute positions") as refusal:
        family_of(AutoConfig.for_model(name))
    assert "llama" in refusal.value.hint


@pytest.mark.parametrize("name", ["bert", "xlnet", "t5"])
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="not supported"):
        candidates(AutoConfig.for_model(name))


def test_mpt_without_alibi_is_refused() -> None:
    with pytest.raises(ModelError, match="learned absolute positions"):
        check(CONFIG_MAPPING["mpt"](attn_config={"alibi": False}))


def test_the_page_of_models_has_every_family() -> None:
    page = Path("docs/models.md").read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"`{name}`" not in page] == []


class TestFamiliesWithoutARow:
    @pytest.mark.parametrize(
        ("name", "interleaved"), [("apertus", False), ("ernie4_5_moe", True), ("persimmon", False)]
    )
    def test_the_layout_that_passes_is_taken(self, name: str, interleaved: bool) -> None:
        assert name not in FAMILIES
        config = CONFIG_MAPPING[name]()
        assert check(config).interleaved == interleaved
        assert family_by_trying(config).interleaved == interleaved

    def test_where_neither_passes_both_figures_are_told(self) -> None:
        """Its rotary embeddings turn the other way."""
        with pytest.raises(ModelError, match=r"nanochat: self-check failed.* by \d.* from") as no:
            check(CONFIG_MAPPING["nanochat"]())
        assert "neither layout" in no.value.hint

    def test_what_no_short_text_shows_is_refused(self) -> None:
        config = CONFIG_MAPPING["apertus"]()
        config.index_topk = 2048
        with pytest.raises(ModelError, match="index_topk"):
            check(config)

    def test_another_number_of_heads_than_is_configured_is_refused(self) -> None:
        """Its query heads share no keys, whatever it says."""
        with pytest.raises(ModelError, match=r"jetmoe: query heads, .* \(4, 4, 128\), not"):
            check(CONFIG_MAPPING["jetmoe"]())

    def test_a_row_is_not_tried(self) -> None:
        assert family_by_trying(CONFIG_MAPPING["llama"]()) is FAMILIES["llama"]


def test_a_table_of_biases_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPT makes one of its whole trained length in every pass."""
    model = model_of("mpt")
    built = []
    stock_table = type(model.transformer).build_mpt_alibi_tensor
    monkeypatch.setattr(
        type(model.transformer),
        "build_mpt_alibi_tensor",
        lambda *arguments, **options: built.append(1) or stock_table(*arguments, **options),
    )
    our_logits(model, METHOD, IDS, CHUNK)
    assert not built
    stock_logits(model, IDS)
    assert built


@pytest.mark.parametrize("name", ["bloom-6-heads", "mpt-6-heads"])
def test_models_with_alibi_attend_in_c(name: str, built_library: Path) -> None:
    """Past the window, in bfloat16: as near to the definition as torch is, and not by torch."""
    heads_of_64 = {"hidden_size": 384, "num_attention_heads": 6}
    exact = tiny_model(name, **heads_of_64)
    rounded = tiny_model(name, torch.bfloat16, **heads_of_64)
    with torch.no_grad():  # the same weights, so that only the computation is rounded
        for parameter, other in zip(exact.parameters(), rounded.parameters(), strict=True):
            parameter.copy_(other)
    want = our_logits(exact, METHOD, IDS, CHUNK)
    distances = []
    for path in (None, built_library):
        library.use(path)
        try:
            with CausalLM(rounded) as lm:
                engine = Engine(lm, METHOD, 16)
                engine.tally = tally = Tally()
                state = engine.start()
                parts = [engine.forward(state, IDS[at : at + 16]) for at in range(0, COUNT, 16)]
                logits = lm.logits(torch.cat(parts))
        finally:
            library.use(None)
        assert (set(tally.attention) == {"C"}) == (path is not None)
        distances.append(float((logits - want).square().mean().sqrt()))
    assert distances[1] <= 1.5 * distances[0]
    assert distances[0] < 0.05 * float(want.std())
