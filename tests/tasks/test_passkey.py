"""The passkey prompt: exact in tokens, the key in its place, the same on every machine."""

from pathlib import Path

import pytest
import torch
from chat_model import build_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.engine.heads import Head, RetrievalHeads
from lmi_cli.errors import UsageError
from lmi_cli.models.heads import remember_heads
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.methodchoice import NO_MEMORY, MemoryChoice, MethodChoice
from lmi_cli.tasks.passkey import (
    FILLER,
    KEY,
    PREFIX,
    QUESTION,
    Cell,
    PasskeyReport,
    _Runner,
    build_prompt,
    key_for,
    passkey,
)
from lmi_cli.text.tokenizer import Tokenizer

TOKENIZERS = [Tokenizer(build_tokenizer(), bos_id=bos) for bos in (None, 0)]


@given(
    length=st.integers(200, 3000),
    depth=st.floats(0, 100),
    key=st.integers(10_000, 99_999).map(str),
    tokenizer=st.sampled_from(TOKENIZERS),
)
def test_the_prompt_is_exact_and_the_key_stands_at_its_depth(
    length: int, depth: float, key: str, tokenizer: Tokenizer
) -> None:
    prompt = build_prompt(tokenizer, length, depth, key)
    ids = [*prompt.document.tolist(), *prompt.question.tolist()]
    assert len(ids) == length
    assert ids[: len(tokenizer.prefix)] == tokenizer.prefix
    text = tokenizer.decode(ids)
    needle = KEY.format(key=key)
    assert text.startswith(PREFIX) and text.endswith(QUESTION) and text.count(needle) == 1
    before, after = text[len(PREFIX) : -len(QUESTION)].split(needle)
    assert before.endswith(FILLER) or FILLER.endswith(before)
    assert after == FILLER * (len(after) // len(FILLER))
    filler_tokens = len(tokenizer.encode(FILLER))
    room = len(tokenizer.encode(before + after))
    if room >= filler_tokens:
        share = 100 * len(tokenizer.encode(before)) / room
        assert abs(share - depth) <= 150 * filler_tokens / room
    if depth == 0:
        assert len(before) < len(FILLER)
    if depth == 100:
        assert after == ""


def test_a_length_without_room_names_the_shortest() -> None:
    tokenizer = TOKENIZERS[0]
    with pytest.raises(UsageError) as caught:
        build_prompt(tokenizer, 10, 0, "12345")
    shortest = int("".join(filter(str.isdigit, caught.value.hint or "")))
    prompt = build_prompt(tokenizer, shortest, 50, "12345")
    assert len(prompt.document) + len(prompt.question) == shortest
    with pytest.raises(UsageError):
        build_prompt(tokenizer, shortest - 1, 50, "12345")


def test_keys_are_fixed_by_their_place_in_the_grid() -> None:
    keys = {
        key_for(seed, length, depth, trial)
        for seed in (0, 1)
        for length in (4000, 8000)
        for depth in (0, 25.0, 50)
        for trial in range(4)
    }
    assert len(keys) > 44
    assert all(len(key) == 5 and key[0] != "0" and key.isdecimal() for key in keys)
    assert key_for(0, 4000, 50, 0) == key_for(0, 4000, 50.0, 0) == "89201"


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("{key}.", True),
        (" {key}", True),
        ("it is {key}, not 1", True),
        ("{key}0", False),
        ("1{key}", False),
        ("1 {key}", False),
        ("none", False),
        ("", False),
    ],
)
def test_the_first_integer_counts(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, answer: str, correct: bool
) -> None:
    text = answer.format(key=key_for(3, 150, 50.0, 0))
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: text)
    events = run(loaded, [150], [50.0], trials=1, seed=3)
    (cell,) = [event for event in events if isinstance(event, Cell)]
    assert cell.trials[0].correct is correct
    assert cell.accuracy == float(correct)


def run(
    loaded: Loaded, lengths: list[int], depths: list[float], **arguments: object
) -> list[object]:
    settings: dict[str, object] = {
        "trials": 2, "choice": MethodChoice(), "max_new_tokens": 4, "seed": 0, "chunk": 64,
        "memory": NO_MEMORY,
    }  # fmt: skip
    return list(passkey(loaded, lengths, depths, **settings | arguments))  # type: ignore[arg-type]


def test_the_grid(loaded: Loaded) -> None:
    lengths, depths = [150, 400], [0.0, 100.0]
    events = run(loaded, lengths, depths)
    report = events[-1]
    assert isinstance(report, PasskeyReport)
    places = [(cell.length, cell.depth) for cell in report.cells]
    assert places == [(length, depth) for length in lengths for depth in depths]
    assert [event for event in events if isinstance(event, Cell)] == report.cells
    assert report.tokens == 2 * 2 * sum(lengths) > report.read
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1] == Progress(report.tokens, report.tokens)
    assert [p.tokens for p in progress] == sorted(p.tokens for p in progress)
    assert report.methods[150].parameters["window"] == 256
    assert report.methods[400].parameters["window"] < 256
    assert 0 < report.generated <= 4 * len(report.cells) * 2
    assert report.cache_bytes > 0 and report.timing.prefill_s > 0
    again = run(loaded, lengths, depths)[-1]
    assert isinstance(again, PasskeyReport) and again.cells == report.cells


def test_too_short_a_length_fails_before_anything_runs(loaded: Loaded) -> None:
    with pytest.raises(UsageError):
        run(loaded, [150, 10], [0.0])


def test_an_unlikely_window_is_warned_about(loaded: Loaded) -> None:
    events = run(loaded, [150], [0.0], choice=MethodChoice(window=999))
    assert sum(isinstance(event, Note) for event in events) == 1


@pytest.mark.parametrize("answer_from", ["auto", "passages", "memory", "window"])
def test_long_prompts_are_answered_as_long_documents_are(
    loaded: Loaded, answer_from: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    remember_heads(loaded.files, RetrievalHeads((Head(1, 0),), 32), [])
    seen: list[int] = []
    original = loaded.lm.hidden

    def hidden(ids: torch.Tensor, forward: object) -> torch.Tensor:
        seen.append(ids.numel())
        return original(ids, forward)  # type: ignore[arg-type]

    monkeypatch.setattr(loaded.lm, "hidden", hidden)
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    report = run(loaded, [600], [50.0], trials=1, memory=memory)[-1]
    assert isinstance(report, PasskeyReport)
    expected = "passages" if answer_from == "auto" else answer_from
    assert report.methods[600].answered_from == expected
    assert report.store_bytes > 0
    assert (sum(seen) > 800) == (expected == "passages")  # passages are read again


def test_a_model_without_such_heads_is_tested_by_memory_as_qa_would_answer(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    remember_heads(loaded.files, RetrievalHeads((), 32), [])
    report = run(loaded, [600], [50.0], trials=1, memory=MemoryChoice())[-1]
    assert isinstance(report, PasskeyReport)
    assert report.methods[600].answered_from == "memory"
    with pytest.raises(UsageError, match="no passages"):
        run(loaded, [600], [50.0], trials=1, memory=MemoryChoice("passages"))


@pytest.mark.parametrize("answer_from", ["passages", "memory"])
def test_prompts_that_begin_alike_are_read_once_and_answered_as_if_read_alone(
    loaded: Loaded, answer_from: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    remember_heads(loaded.files, RetrievalHeads((Head(1, 0),), 32), [])
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    depths = [0.0, 90.0, 40.0]  # not in order, so that what was read is begun again
    together = run(loaded, [900], depths, memory=memory)[-1]
    assert isinstance(together, PasskeyReport)
    assert together.read < together.tokens
    for cell in together.cells:
        alone = run(loaded, [900], [cell.depth], trials=2, memory=memory)[-1]
        assert isinstance(alone, PasskeyReport)
        assert alone.cells == [cell]
        assert all(trial.window_answer is not None for trial in cell.trials)


def test_every_prompt_ends_with_the_state_of_reading_it_alone(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    remember_heads(loaded.files, RetrievalHeads((Head(1, 0),), 32), [])

    def runner() -> _Runner:
        made = _Runner(loaded, 900, MethodChoice(), MemoryChoice("memory", store=True), 64, 4)
        list(made.notes())
        return made

    shared = runner()
    for depth, key in ((10.0, "12345"), (60.0, "54321"), (60.0, "99999"), (0.0, "11111")):
        alone = runner()
        for one in (shared, alone):
            assert max(one.read(depth, key)) == len(one.prompt.document)
        assert torch.equal(shared.state.caches[1].window.key[:, :, -64:],
                           alone.state.caches[1].window.key[:, :, -64:])  # fmt: skip
        for name in ("index", "store"):
            keys = [torch.cat([*one.kept[name].keys(1)], 2) for one in (shared, alone)]
            assert torch.equal(*keys)
