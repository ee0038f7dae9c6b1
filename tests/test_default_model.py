"""The real thing: the default model against stock transformers on the same weights, float32."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reading_helpers import Settings
from transformers import AutoConfig, AutoModelForCausalLM

from lmi_cli.attention import clusters, kernel, pruning
from lmi_cli.attention.ranges import KeyRange
from lmi_cli.attention.search import attend_searched
from lmi_cli.attention.segment import Search
from lmi_cli.attention.stored import KeyBlock, KeyScores, StoredKeys
from lmi_cli.cache.store import TokenStore
from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import forward
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods import Full, LMInfinite, MethodChoice
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.models.weights import Weights
from lmi_cli.native import choice, compiling, library
from lmi_cli.sources.blocks import text_corpus
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.haystacks import Noise, build_text
from lmi_cli.tasks.needles import Needle
from lmi_cli.tasks.passkey import PasskeyGrid, passkey
from lmi_cli.tasks.passkey_report import PasskeyWay
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice
from lmi_cli.text.prompts import ContinuationPrompts

pytestmark = [pytest.mark.model, pytest.mark.slow]

TOPICS = (
    ("The bakery in Mill Street opens at six and sells rye bread.", "When does it open?"),
    ("Nadia painted the fence green because the shop had no blue left.", "Why is it green?"),
    ("The train to Lund leaves from platform nine at noon.", "Which platform?"),
    ("Our cat is called Biscuit and sleeps on the piano.", "Where does the cat sleep?"),
    ("The well is forty metres deep and was dug in 1870.", "How deep is the well?"),
    ("Function parse_date raises ValueError on an empty string.", "What does it raise?"),
    ("Copper melts at 1085 degrees and iron at 1538 degrees.", "Which melts first?"),
    ("The committee met twice, in May and in October.", "How often did it meet?"),
    ("The library lends out tools: drills, saws and a ladder.", "What can be borrowed?"),
    ("Rain fell on eleven days; the harvest was late by two weeks.", "Was the harvest late?"),
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    model = load(resolve(None), Placement(dtype="float32", device="cpu"))
    yield model
    model.lm.close()


@pytest.fixture(scope="module")
def stock(loaded: Loaded) -> torch.nn.Module:
    """The same weights, exactly, in the hands of transformers."""
    folder = loaded.files.folder
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), dtype=torch.float32, attn_implementation="sdpa"
    )
    found = model.load_state_dict(dict(Weights(folder, torch.float32)), strict=False)
    assert found.missing_keys == ["lm_head.weight"] and not found.unexpected_keys
    model.tie_weights()
    return model.eval()


def prose_ids(loaded: Loaded, count: int) -> np.ndarray:
    """Ids of text that does not repeat: numbered sentences."""
    text = " ".join(
        f"{number}. {TOPICS[number % 10][0]} ({number * 7919 % 1000})" for number in range(count)
    )
    return loaded.tokenizer.encode(text).ids[:count]


def our_hidden(loaded: Loaded, method: object, ids: np.ndarray) -> torch.Tensor:
    engine = Engine(loaded.lm, method)
    state = engine.start()
    return torch.cat([engine.forward(state, ids[at : at + 512]) for at in range(0, len(ids), 512)])


def our_logits(loaded: Loaded, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits in slices of 256 tokens: those of 1,024 tokens together have 201 MB."""
    return loaded.lm.logits_in_slices(hidden, 256)


@torch.inference_mode()
def stock_logits(stock: torch.nn.Module, ids: np.ndarray) -> Iterator[torch.Tensor]:
    """The same of the stock model."""
    ids = torch.from_numpy(ids.astype(np.int64))[None]
    for part in stock.model(ids, use_cache=False).last_hidden_state[0].split(256):
        yield stock.lm_head(part)


def largest_difference(ours: Iterator[torch.Tensor], theirs: Iterator[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def float64_angles(stock: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stock model compute its rotation angles in float64, like ours."""
    rotary = stock.model.rotary_emb

    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].double() * rotary.inv_freq.double()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    monkeypatch.setattr(rotary, "forward", forward)


@pytest.mark.parametrize(("tokens", "tolerance"), [(64, 3e-4), (1024, 1e-2)])
def test_logits_equal_stock_while_everything_fits(
    loaded: Loaded,
    stock: torch.nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    tolerance: float,
) -> None:
    ids = prose_ids(loaded, tokens)
    hidden = our_hidden(loaded, LMInfinite(8192, 10, 8192), ids)

    def ours() -> Iterator[torch.Tensor]:
        return our_logits(loaded, hidden)

    assert largest_difference(ours(), our_logits(loaded, our_hidden(loaded, Full(), ids))) <= 1e-4
    as_it_is = largest_difference(ours(), stock_logits(stock, ids))
    float64_angles(stock, monkeypatch)
    exact = largest_difference(ours(), stock_logits(stock, ids))
    assert as_it_is <= tolerance
    # What remains far out is the rounding of the stock model's float32 angles.
    assert exact <= 3e-4


@pytest.mark.parametrize("number", range(10))
def test_answers_equal_stock_generate(loaded: Loaded, stock: torch.nn.Module, number: int) -> None:
    fact, question = TOPICS[number]
    others = [text for text, _ in TOPICS]
    document = " ".join([*others[number:], fact, *others[:number]] * (1 + number))
    asked = SimpleNamespace(ids=[])
    engine_read = Engine.read

    def remember(self: Engine, state: object, blocks: object) -> object:
        kept = [np.asarray(block) for block in blocks]
        asked.ids += [int(token) for block in kept for token in block]
        return engine_read(self, state, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "read", remember)
        settings = Settings(max_new_tokens=24, chunk=512)
        reading = settings.read(loaded, text_corpus(document), [question])
        given = settings.ask(loaded, reading, question)
    prompt = torch.tensor([asked.ids])
    with torch.inference_mode():
        generated = stock.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=sorted(loaded.tokenizer.stop_ids),
            pad_token_id=2,
        )[0, prompt.shape[1] :].tolist()
    generated = [token for token in generated if token not in loaded.tokenizer.stop_ids]
    assert given.tokens == len(generated)
    assert given.answer == loaded.tokenizer.decode(generated).lstrip()


def test_passkey_at_1k_is_found(loaded: Loaded) -> None:
    quiz, prompts = Needle().quiz(0, 1000, 50, 0), ContinuationPrompts(loaded.tokenizer)
    built = build_text(prompts, 1000, 50, quiz, Noise(loaded.tokenizer))
    tail = np.array(prompts.whole().tail(quiz.question), dtype=np.int32)
    prompt = np.concatenate((built.encoded.ids, tail))
    assert len(prompt) == 1000
    engine = Engine(loaded.lm, LMInfinite(8192, 10, 8192))
    state = engine.start()
    *_, last = engine.read(state, [prompt])
    tokens = [
        event.token
        for event in engine.decode(
            state, last.last, stop_ids=frozenset(), limit=8, sampling=Sampling()
        )
    ]
    assert quiz.expected[0] in loaded.tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("memory", "found"), [(MemoryChoice(), True), (NO_MEMORY, False)], ids=["passages", "none"]
)
def test_passkey_beyond_the_trained_length(
    loaded: Loaded, memory: MemoryChoice, found: bool
) -> None:
    """Found among what has left the window, by its heads; not without them."""
    grid = PasskeyGrid([9000], [50.0], 1, Needle(), Noise(loaded.tokenizer), 0)
    report = follow(passkey(loaded, grid, [PasskeyWay(MethodChoice(), memory)]))
    assert report.ways[0].accuracy == float(found)


def require_library() -> None:
    """Skip a test that needs the library that was installed."""
    if isinstance(found := compiling.chosen(), str):
        pytest.skip(f"the library in C cannot run here: {found}")
    if (fault := compiling.fault(found)) is not None:
        pytest.skip(fault)


def test_attention_in_c_scores_a_text_as_float32_does(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the window too: what attention in bfloat16 costs, in nats a token."""
    monkeypatch.delenv("LMI_NATIVE", raising=False)
    require_library()
    low = load(resolve(None), Placement(dtype="bfloat16", device="cpu"))
    assert choice.computed_by(low.lm.dtype, low.lm.device).startswith("C (")
    try:
        ids = prose_ids(loaded, 2000)

        def nll() -> float:
            engine = Engine(low.lm, LMInfinite(700, 10, 700))
            losses = [part.nll for part in engine.score(engine.start(), [ids])]
            return float(np.nanmean(np.concatenate(losses)))

        by_c = nll()
        monkeypatch.setattr(forward, "attend", in_float32)
        exact = nll()
    finally:
        library.use(None)
        low.lm.close()
    assert abs(by_c - exact) <= 0.002


PEAK = """
import sys
from lmi_cli import memory
from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.models import packed
from lmi_cli.models.known import known_model
from lmi_cli.models.load import load_known
from lmi_cli.models.placement import Placement
from lmi_cli.models.weights import Weights
known = known_model(resolve(None), Placement(dtype=sys.argv[1], quantize=sys.argv[2], device="cpu"))
packed.load = lambda *_: {}  # as at a first start
memory.forget_peak_rss()
before = memory.peak_rss_bytes()
lm = load_known(known).lm
peak, kept = memory.peak_rss_bytes() - before, lm.weights_bytes
print(peak, kept, known.facts.weights_bytes(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_loading_takes_little_more_memory_than_the_weights(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they have to be converted, and packed for the library in C."""
    monkeypatch.delenv("LMI_NATIVE", raising=False)
    if dtype == "int8":
        require_library()
    arguments = ("bfloat16", "int8") if dtype == "int8" else (dtype, "none")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, kept, forecast = map(int, done.stdout.split())
    assert kept == pytest.approx(forecast, rel=0.01)
    assert 0.5 * kept < peak < 1.15 * kept


def in_float32(ranges: list[KeyRange], **named: object) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The kernel on the same numbers, computing in float32 and rounding once."""
    wide = [
        replace(keys, query=keys.query.float(), key=keys.key.float(), value=keys.value.float())
        for keys in ranges
    ]
    output, lse = kernel.attend(wide, **named)  # type: ignore[arg-type]
    return output.bfloat16(), lse


def test_searches_find_most_of_the_best_keys(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall of the 32 best of 1,080 real keys, over the layers, heads and tokens of a question."""
    ids = prose_ids(loaded, 1100)
    method = LMInfinite(200, 10, 200)
    engine = Engine(loaded.lm, method, 512)
    state, layers = engine.start(), range(len(engine.layers))
    store = TokenStore(dict.fromkeys(layers), with_values=True, first=10)
    state.recording = (store,)
    list(engine.read(state, [ids[:1090]]))
    finders = {"pruned": pruning.candidates, "clusters": clusters.candidates}
    found: dict[str, list[float]] = {name: [] for name in finders}

    def watched(
        query: torch.Tensor, blocks: Iterable[KeyBlock], k: int, search: Search, **more: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stored = StoredKeys(list(blocks))
        seen = torch.full((query.shape[2],), stored.count)
        key = torch.cat([block.key for block in stored.blocks], 2).repeat_interleave(3, 1)
        best = (query @ key.mT).topk(k).indices
        for name, find in finders.items():
            mask = find(KeyScores(query, stored), seen, seen // 10)
            assert 0.09 < float(mask.float().mean()) < 0.13
            found[name].append(float(mask.gather(-1, best).float().mean()))
        return attend_searched(query, stored.blocks, k, search, **more)

    monkeypatch.setattr(forward, "attend_searched", watched)
    fork = state.fork(LMInfinite(200, 10, 200, 32, 3, 100, "clusters"), {"store": store})
    engine.forward(fork, ids[1090:])
    # A tenth of the keys; by chance that would be a tenth of the best, too.
    assert np.mean(found["clusters"]) > 0.85
    assert 0.3 < np.mean(found["pruned"]) < np.mean(found["clusters"])
