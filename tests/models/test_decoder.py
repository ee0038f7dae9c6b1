"""Our own decoder against the same weights under transformers, and its step in C against itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, stock_logits, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods import Full, LMInfinite, Method, StreamingLLM
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.families import FAMILIES
from lmi_cli.models.plain_shape import plain_shape
from lmi_cli.native import attention, library

PLAIN = (
    "llama", "llama-mha", "llama-mqa", "llama-tied", "llama-linear", "llama-llama3",
    "mistral", "mistral-sliding", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite",
    "olmo2", "phi3", "smollm3",
)  # fmt: skip
METHODS = (Full(), LMInfinite(9, 3, 13), LMInfinite(200, 10, 200), StreamingLLM(9, 3))
LARGE = {"hidden_size": 96, "head_dim": 64, "intermediate_size": 160, "num_attention_heads": 6}


def decoder_of(model: PreTrainedModel) -> Decoder:
    shape = plain_shape(model.config)
    assert shape is not None
    return Decoder(shape, dict(model.state_dict()))


def logits(lm: LanguageModel, method: Method, ids: np.ndarray, chunk: int) -> Tensor:
    engine = Engine(lm, method, chunk)
    state = engine.start()
    passes = [engine.forward(state, ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
    return lm.logits(torch.cat(passes))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_logits_are_those_of_transformers(name: str, chunk: int) -> None:
    model, ids = tiny_model(name), random_ids(40)
    decoder = decoder_of(model)
    for method in METHODS:
        with CausalLM(model) as lm, precisely(model):
            expected = logits(lm, method, ids, chunk)
        found = logits(decoder, method, ids, chunk)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PLAIN)
def test_it_says_of_itself_what_transformers_says(name: str) -> None:
    model = tiny_model(name, torch.float32)
    decoder = decoder_of(model)
    with CausalLM(model) as lm:
        for what in (
            "family", "trained_length", "vocab_size", "attention_heads", "head_size", "dtype",
            "device", "device_map", "weights_bytes", "linear_weights", "chunk",
        ):  # fmt: skip
            assert getattr(decoder, what) == getattr(lm, what), what
        assert decoder.layer_device(1) == lm.layer_device(1)
        for ours, theirs in zip(decoder.layers(64), lm.layers(64), strict=True):
            assert ours.index == theirs.index
            assert ours.native_window == theirs.native_window
            assert (ours.rotary is None) == (theirs.rotary is None)
            if ours.rotary is not None:
                assert torch.equal(ours.rotary.inv_freq, theirs.rotary.inv_freq)


@pytest.mark.parametrize("name", sorted({*FAMILIES, "llama-yarn", "llama-dynamic"} - {*PLAIN}))
def test_whatever_is_more_than_a_plain_decoder_is_left_to_transformers(name: str) -> None:
    assert plain_shape(tiny_model(name, torch.float32).config) is None


def test_names_of_weights_tell_whether_that_is_all() -> None:
    def fits(name: str, change: set[str] = frozenset(), **changes: object) -> bool:
        model = tiny_model(name, torch.float32, **changes)
        shape = plain_shape(model.config)
        assert shape is not None
        return shape.fits(set(model.state_dict()) ^ change)

    assert all(fits(name) for name in PLAIN)
    assert fits("llama-tied", {"lm_head.weight"})
    assert not fits("llama", {"lm_head.weight"})
    assert not fits("llama", {"model.layers.1.self_attn.q_proj.weight"})
    assert not fits("llama", {"model.layers.0.mlp.experts.weight"})
    assert not fits("qwen2", {"model.layers.1.self_attn.k_proj.bias"})
    assert not fits("qwen3", {"model.layers.1.self_attn.k_norm.weight"})
    assert not fits("llama", attention_bias=True)  # its output projection has one too


IN_C = (
    "llama", "llama-mqa", "llama-tied", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
    "granite", "olmo2", "phi3", "smollm3",
)  # fmt: skip


# One chunk or the other for each pair of a model and a size. Attention is in C for heads of 64 and
# of 128: every model has steps with the one and passes with the other, and so it is in torch.
@pytest.mark.parametrize(
    ("name", "size", "chunk"),
    [
        (name, size, (1, 9)[(at + place // 2) % 2])
        for at, name in enumerate(IN_C)
        for place, size in enumerate((32, 64, 96, 128))
    ],
)
@pytest.mark.usefixtures("c_library")
def test_in_c_it_is_as_near_to_the_truth_as_stock(
    built_library: Path, name: str, size: int, chunk: int
) -> None:
    """In bfloat16 at most twice as far from float64 as transformers, on the same weights.

    On average and where it is farthest; within the window and far beyond it, where sinks are seen.
    Attention over heads of 32 and 96 components is left to torch.
    """
    ids = random_ids(60)
    sizes = LARGE | {"head_dim": size}
    narrow = tiny_model(name, torch.float32, **sizes).to(torch.bfloat16)
    wide = tiny_model(name, torch.float32, **sizes)
    wide.load_state_dict(narrow.state_dict())
    for frequencies, buffer in wide.model.rotary_emb.named_buffers():
        setattr(narrow.model.rotary_emb, frequencies, buffer.float())
    truth = decoder_of(wide.double())
    for method in (Full(), LMInfinite(16, 4, 20)):
        true = logits(truth, method, ids, chunk)
        in_c = logits(decoder_of(narrow), method, ids, chunk).double() - true
        library.use(None)
        with CausalLM(narrow) as lm:
            stock = logits(lm, method, ids, chunk).double() - true
        library.use(built_library)
        assert in_c.abs().mean() <= 2 * stock.abs().mean()
        assert in_c.abs().max() <= 2 * stock.abs().max()
    # What is true is so without any code of ours.
    torch.testing.assert_close(
        logits(truth, Full(), ids, chunk), stock_logits(wide, ids), rtol=0, atol=1e-10
    )


def stepped(
    monkeypatch: pytest.MonkeyPatch, lm: LanguageModel, method: Method, ids: np.ndarray
) -> tuple[Tensor, list[bool]]:
    """Logits token by token behind a first chunk, and whether each token was one step in C."""
    steps: list[bool] = []
    views = ForwardPass.views

    def noted(self: ForwardPass, *arguments: object) -> object:
        found = views(self, *arguments)
        steps.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ForwardPass, "views", noted)
        engine = Engine(lm, method, 4)
        state = engine.start()
        hidden = [engine.forward(state, part) for part in (ids[:4], *ids[4:, None])]
    return lm.logits(torch.cat(hidden)), steps


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "olmo2", "smollm3"]
)
@pytest.mark.usefixtures("c_library")
def test_a_step_is_what_the_layers_are_one_by_one(
    monkeypatch: pytest.MonkeyPatch, name: str, method: Method
) -> None:
    """Within the window, beyond it, and where the window moves to the front of its buffer."""
    ids = random_ids(70)
    decoder = decoder_of(tiny_model(name, torch.bfloat16, **LARGE))
    found, steps = stepped(monkeypatch, decoder, method, ids)
    # Starting tokens have to be stored first, which no step does.
    # Nor does the first pass, before which nothing is stored.
    assert len(steps) == 67 and all(steps[1 if isinstance(method, Full) else 7 :])
    with monkeypatch.context() as patch:
        patch.setattr(ForwardPass, "views", lambda *_: None)
        expected, _ = stepped(monkeypatch, decoder, method, ids)
    wide = tiny_model(name, torch.bfloat16, **LARGE).double()
    true = logits(decoder_of(wide), method, ids, 4)
    error, usual = ((each.double() - true).abs() for each in (found, expected))
    assert error.mean() <= 2 * usual.mean()
    assert error.max() <= 2 * usual.max()


@pytest.mark.usefixtures("c_library")
@torch.inference_mode()
def test_what_is_more_than_attention_over_the_cache_is_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = random_ids(30)
    decoder = decoder_of(tiny_model("llama", torch.bfloat16, **LARGE))
    plain, searching = LMInfinite(9, 3, 13), LMInfinite(9, 3, 13, 2, 0, 4)

    def views(
        *stores: TokenStore,
        method: Method = plain,
        asking: Method | None = None,
        observe: object = None,
        count: int = 1,
    ) -> bool:
        engine = Engine(decoder, method, 5)
        state = engine.start()
        for at in range(0, 20, 5):
            engine.forward(state, ids[at : at + 5])
        state.recording = tuple(stores)
        if asking is not None:
            state = state.fork(asking)
        forward = ForwardPass(state, engine.layers, count, observe)  # type: ignore[arg-type]
        return forward.views(0.125, torch.bfloat16, 4) is not None

    assert views()
    assert views(count=8)
    assert not views(TokenStore({0: None}, with_values=False))
    assert not views(observe=lambda *_: None)
    assert not views(asking=searching)
    assert not views(method=LMInfinite(9, 30, 13)), "there are starting tokens to come"


@pytest.mark.usefixtures("c_library")
@pytest.mark.parametrize("chunk", [1, 5])
def test_all_attention_is_in_c_beyond_the_window_too(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Starting tokens once had a layout that the library does not take."""
    asked: list[bool] = []
    can = attention.can

    def noted(*arguments: Any) -> bool:
        asked.append(can(*arguments))
        return asked[-1]

    monkeypatch.setattr(attention, "can", noted)
    model = tiny_model("llama", torch.bfloat16, **LARGE)
    for lm in (decoder_of(model), CausalLM(model)):
        with lm:
            logits(lm, LMInfinite(9, 3, 13), random_ids(40), chunk)
    assert asked and all(asked)


@pytest.mark.usefixtures("c_library")
def test_forks_do_not_disturb_each_other() -> None:
    """Two that take turns say what each says alone, and so does what they were forked from."""
    decoder = decoder_of(tiny_model("llama", torch.bfloat16, **LARGE))
    engine = Engine(decoder, LMInfinite(9, 3, 13), 5)

    def read() -> tuple[StreamState, Tensor]:
        state = engine.start()
        *_, last = engine.read(state, [random_ids(22)])
        return state, last.last

    def answer(state: StreamState, last: Tensor, seed: int) -> Iterator[int]:
        sampling = Sampling(temperature=2.0, seed=seed)
        for event in engine.decode(state, last, stop_ids=frozenset(), limit=20, sampling=sampling):
            yield event.token

    alone = [list(answer(*read(), seed)) for seed in range(3)]
    assert len(set(map(tuple, alone))) == 3
    state, last = read()
    one, two = answer(state.fork(), last, 0), answer(state.fork(), last, 1)
    assert list(zip(one, two, strict=True)) == list(zip(*alone[:2], strict=True))
    assert list(answer(state, last, 2)) == alone[2]


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("chunk", [1, 9])
@pytest.mark.usefixtures("c_library")
def test_eight_bits_are_the_model_with_rounded_weights(name: str, chunk: int) -> None:
    """As near to its truth as the unrounded model is to its own."""
    ids = random_ids(40)
    model = tiny_model(name, torch.float32, **LARGE).to(torch.bfloat16)
    shape = plain_shape(model.config)
    assert shape is not None
    weights = dict(model.state_dict())
    decoder = Decoder(shape, weights, quantize="int8")
    assert (decoder.quantize, decoder.dtype_name) == ("int8", "bfloat16")
    plain = decoder_of(model)
    assert (plain.quantize, plain.dtype_name) == ("none", "bfloat16")

    def rounded(weight: Tensor) -> Tensor:
        blocks = weight.float().view(len(weight), -1, 32)
        unit = (blocks.abs().amax(-1, keepdim=True) / 127).half().double()
        whole = (blocks.double() / unit).round().clamp(-127, 127)
        return (whole * unit).view(weight.shape)

    exact = {name: weight.double() for name, weight in weights.items()}
    exact |= {n: rounded(w) for n, w in weights.items() if n.endswith("_proj.weight")}
    embedding = exact["model.embed_tokens.weight"] = rounded(weights["model.embed_tokens.weight"])
    exact["lm_head.weight"] = embedding if shape.tied else rounded(weights["lm_head.weight"])
    untied = replace(shape, tied=False)
    wide = {name: weight.double() for name, weight in weights.items()}
    wide.setdefault("lm_head.weight", wide["model.embed_tokens.weight"])
    for method in (Full(), LMInfinite(9, 3, 13)):
        usual = logits(plain, method, ids, chunk).double() - logits(
            Decoder(untied, wide), method, ids, chunk
        )
        error = logits(decoder, method, ids, chunk).double() - logits(
            Decoder(untied, exact), method, ids, chunk
        )
        assert error.abs().mean() <= 2 * usual.abs().mean()
        assert error.abs().max() <= 2 * usual.abs().max()


def test_eight_bits_need_the_library() -> None:
    model = tiny_model("llama", torch.bfloat16, **LARGE)
    shape = plain_shape(model.config)
    assert shape is not None
    with pytest.raises(ValueError, match="library in C"):
        Decoder(shape, dict(model.state_dict()), quantize="int8")
