"""The passkey prompt: exact in tokens, the key in its place, the same on every machine."""

import pytest
import torch
from chat_model import build_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.engine.forward import ForwardPass
from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.tasks import asking, reading
from lmi_cli.tasks import passkey as passkey_module
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.passkey import (
    FILLER,
    KEY,
    PREFIX,
    QUESTION,
    Cell,
    PasskeyReport,
    _Texts,
    build_text,
    is_right,
    key_for,
    passkey,
)
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice, ReadingRequest
from lmi_cli.text.prompts import ContinuationPrompts
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
    built = build_text(tokenizer, length, depth, key)
    assert len(tokenizer.prefix) + len(built) + len(tokenizer.encode(QUESTION)) == length
    text = tokenizer.decode(built.encoded.ids.tolist())
    assert text == built.text
    for token in (0, len(built) // 2, len(built) - 1):  # each begins where it says
        start = int(built.encoded.starts[token])
        assert text[start:].startswith(tokenizer.decode([int(built.encoded.ids[token])]))
    needle = KEY.format(key=key)
    assert text.startswith(PREFIX) and text.count(needle) == 1
    before, after = text[len(PREFIX) :].split(needle)
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
        build_text(tokenizer, 10, 0, "12345")
    shortest = int("".join(filter(str.isdigit, caught.value.hint or "")))
    assert build_text(tokenizer, shortest, 50, "12345").text.startswith(PREFIX)
    with pytest.raises(UsageError):
        build_text(tokenizer, shortest - 1, 50, "12345")


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
def test_the_first_integer_counts(answer: str, correct: bool) -> None:
    assert is_right(answer.format(key="17262"), "17262") is correct


def run(
    model: Loaded, lengths: list[int], depths: list[float], **arguments: object
) -> list[object]:
    """All events, and the report last."""
    settings: dict[str, object] = {
        "trials": 2, "choice": MethodChoice(), "max_new_tokens": 4, "seed": 0, "chunk": 64,
        "memory": NO_MEMORY,
    }  # fmt: skip
    events: list[object] = []
    task = passkey(model, lengths, depths, **settings | arguments)  # type: ignore[arg-type]
    report = follow(task, events.append)
    return [*events, report]


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
    assert [p.done for p in progress] == sorted(p.done for p in progress)
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
    events = run(loaded, [150], [0.0], choice=MethodChoice(given={"window": 999}))
    assert sum(isinstance(event, Note) for event in events) == 1


@pytest.mark.parametrize("answer_from", ["auto", "passages", "memory", "window"])
def test_long_prompts_are_answered_as_long_documents_are(
    model: Loaded, answer_from: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = model.lm.hidden

    def hidden(ids: torch.Tensor, attention: object, depth: int | None = None) -> torch.Tensor:
        if isinstance(attention, ForwardPass) and not attention.position:
            seen.append(ids.numel())
        return original(ids, attention, depth)  # type: ignore[arg-type]

    monkeypatch.setattr(model.lm, "hidden", hidden)
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    report = run(model, [600], [50.0], trials=1, memory=memory, rank="fast")[-1]
    assert isinstance(report, PasskeyReport)
    expected = "passages" if answer_from == "auto" else answer_from
    assert report.methods[600].answered_from == expected
    assert report.store_bytes > 0
    # One begins with the document; another with passages, and a third without them.
    assert len(seen) == (3 if expected == "passages" else 1)


def test_it_reads_and_asks_by_the_two_functions_of_qa(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of the test, read and asked by hand, gives the answer of the test."""
    memory = MemoryChoice()
    report = run(model, [600], [30.0], trials=1, memory=memory)[-1]
    assert isinstance(report, PasskeyReport)
    (trial,) = report.cells[0].trials
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    text = build_text(model.tokenizer, 600, 30.0, trial.key)
    stream = passkey_module.EncodedStream(text.encoded, text.text, model.tokenizer)
    request = ReadingRequest(prompts, MethodChoice(), memory, 4, 64)
    document = follow(reading.read(model, stream, request, [QUESTION]))
    asker = asking.Asker(model, document, asking.AnswerOptions(prompts, max_new_tokens=4))
    assert follow(asker.ask(QUESTION)).answer == trial.answer
    assert passkey_module.read is reading.read and passkey_module.Asker is asking.Asker


def test_a_model_without_retrieval_heads_is_tested_as_qa_would_answer(headless: Loaded) -> None:
    report = run(headless, [600], [50.0], trials=1, memory=MemoryChoice())[-1]
    assert isinstance(report, PasskeyReport)
    assert report.methods[600].answered_from == "passages"


def test_only_the_index_is_read_where_nothing_else_is_needed(model: Loaded) -> None:
    memory = MemoryChoice(embeddings=False)
    report = run(model, [600], [50.0], trials=1, memory=memory)[-1]
    assert isinstance(report, PasskeyReport)
    (trial,) = report.cells[0].trials
    assert report.methods[600].answered_from == "passages" and trial.window_answer is None


@pytest.mark.parametrize("answer_from", ["passages", "memory"])
def test_prompts_that_begin_alike_are_read_once_and_answered_as_if_read_alone(
    model: Loaded, answer_from: str
) -> None:
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    depths = [0.0, 90.0, 40.0]  # not in order, so that what was read is begun again
    together = run(model, [900], depths, memory=memory)[-1]
    assert isinstance(together, PasskeyReport)
    assert together.read < together.tokens
    for cell in together.cells:
        alone = run(model, [900], [cell.depth], trials=2, memory=memory)[-1]
        assert isinstance(alone, PasskeyReport)
        assert alone.cells == [cell]
        assert all(trial.window_answer is not None for trial in cell.trials)


def test_every_prompt_ends_with_the_state_of_reading_it_alone(model: Loaded) -> None:
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    memory = MemoryChoice("memory", store=True)
    request = ReadingRequest(prompts, MethodChoice(), memory, 4, 64)

    def texts() -> _Texts:
        made = _Texts(model, request, 900)
        follow(made.prepare())
        return made

    shared = texts()
    for depth, key in ((10.0, "12345"), (60.0, "54321"), (60.0, "99999"), (0.0, "11111")):
        one, other = (follow(each.read(depth, key)) for each in (shared, texts()))
        assert one.document.text == other.document.text
        saved = [each.state.save() for each in (one, other)]
        assert saved[0].keys() == saved[1].keys()
        for name in ("1.window.key", "1.window.value", "0.sinks.key"):
            rows = [each[name][:, :, -64:] for each in saved]
            assert torch.equal(*rows)
        for name in ("index", "store"):
            keys = [torch.cat([*each.stores[name].keys(1)], 2) for each in (one, other)]
            assert torch.equal(*keys)
