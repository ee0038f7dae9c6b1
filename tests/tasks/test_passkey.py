"""The passkey test reads and asks as ``qa`` does, shares what it can, and changes nothing by it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lmi_cli.engine.forward import ForwardPass
from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.journal import Journal
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.processes import Processes, Shared
from lmi_cli.tasks import asking, passkey_reading, reading
from lmi_cli.tasks import passkey as passkey_module
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.haystacks import Noise, OwnText, build_text
from lmi_cli.tasks.needles import PREFIX, QUESTION, Needle
from lmi_cli.tasks.passkey import CellDone, PasskeyGrid, passkey
from lmi_cli.tasks.passkey_reading import SharedTexts, planned_readings
from lmi_cli.tasks.passkey_report import PasskeyReport, PasskeyWay
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice, ReadingRequest
from lmi_cli.text.prompts import ContinuationPrompts

WAYS = {
    "passages": MemoryChoice("passages"),
    "memory": MemoryChoice("memory", store=True),
    "window": MemoryChoice("window"),
}


def grid_of(
    model: Loaded,
    lengths: list[int],
    depths: list[float],
    trials: int = 2,
    needle: Needle | None = None,
) -> PasskeyGrid:
    needle = needle or Needle()
    noise = Noise(model.tokenizer, needle.kind.gap)
    return PasskeyGrid(lengths, depths, trials, needle, noise, 0)


def run_grid(
    model: Loaded, grid: PasskeyGrid, ways: Sequence[PasskeyWay], **arguments: object
) -> list[object]:
    """All events, and the report last."""
    settings: dict[str, object] = {"max_new_tokens": 4, "chunk": 64}
    events: list[object] = []
    task = passkey(model, grid, ways, **settings | arguments)  # type: ignore[arg-type]
    report = follow(task, events.append)
    return [*events, report]


def run(
    model: Loaded,
    lengths: list[int],
    depths: list[float],
    *,
    trials: int = 2,
    memory: MemoryChoice = NO_MEMORY,
    choice: MethodChoice | None = None,
    **arguments: object,
) -> PasskeyReport:
    grid = grid_of(model, lengths, depths, trials)
    way = PasskeyWay(choice or MethodChoice(), memory)
    report = run_grid(model, grid, [way], **arguments)[-1]
    assert isinstance(report, PasskeyReport)
    return report


def without_times(report: PasskeyReport) -> object:
    found = asdict(report)
    for way in found["ways"]:
        for cell in way["cells"]:
            for trial in cell["trials"]:
                del trial["answer_s"]
    return {name: found[name] for name in ("ways", "tokens", "generated", "cache_bytes")}


def test_the_grid(loaded: Loaded) -> None:
    lengths, depths = [150, 400], [0.0, 100.0]
    way = PasskeyWay(MethodChoice(), NO_MEMORY)
    events = run_grid(loaded, grid_of(loaded, lengths, depths), [way])
    report = events[-1]
    assert isinstance(report, PasskeyReport)
    (found,) = report.ways
    places = [(cell.length, cell.depth) for cell in found.cells]
    assert places == [(length, depth) for length in lengths for depth in depths]
    assert [event.cell for event in events if isinstance(event, CellDone)] == found.cells
    tail = len(loaded.tokenizer.encode(QUESTION))
    assert report.tokens == 2 * 2 * (sum(lengths) - 2 * tail) > report.read
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1] == Progress(4 * sum(lengths), 4 * sum(lengths))
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert found.methods[150].parameters["window"] == 256
    assert found.methods[400].parameters["window"] < 256
    assert 0 < report.generated <= 4 * len(found.cells) * 2
    assert report.cache_bytes > 0 and report.timing.prefill_s > 0
    again = run(loaded, lengths, depths)
    assert again.ways[0].cells == found.cells


def test_too_short_a_length_fails_before_anything_runs(loaded: Loaded) -> None:
    with pytest.raises(UsageError):
        run(loaded, [150, 10], [0.0])


def test_an_unlikely_window_is_warned_about(loaded: Loaded) -> None:
    way = PasskeyWay(MethodChoice(given={"window": 999}), NO_MEMORY)
    events = run_grid(loaded, grid_of(loaded, [150], [0.0]), [way])
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
    report = run(model, [600], [50.0], trials=1, memory=memory, rank="fast")
    expected = "passages" if answer_from == "auto" else answer_from
    assert report.ways[0].methods[600].answered_from == expected
    assert report.store_bytes > 0
    # One begins with the document; another with passages, and a third without them.
    assert len(seen) == (3 if expected == "passages" else 1)


def test_it_reads_and_asks_by_the_two_functions_of_qa(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of the test, read and asked by hand, gives the answer of the test."""
    memory = MemoryChoice()
    report = run(model, [600], [30.0], trials=1, memory=memory)
    (trial,) = report.ways[0].cells[0].trials
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    quiz = Needle().quiz(0, 600, 30.0, 0)
    text = build_text(prompts, 600, 30.0, quiz, Noise(model.tokenizer))
    stream = passkey_reading.EncodedStream(text.encoded, text.text, model.tokenizer)
    request = ReadingRequest(prompts, MethodChoice(), memory, 4, 64)
    document = follow(reading.read(model, stream, request, [QUESTION]))
    asker = asking.Asker(model, document, asking.AnswerOptions(prompts, max_new_tokens=4))
    assert follow(asker.ask(QUESTION)).answer == trial.answer
    assert passkey_reading.read is reading.read and passkey_module.Asker is asking.Asker


def test_a_model_without_retrieval_heads_is_tested_as_qa_would_answer(headless: Loaded) -> None:
    report = run(headless, [600], [50.0], trials=1, memory=MemoryChoice())
    assert report.ways[0].methods[600].answered_from == "passages"


def test_only_the_index_is_read_where_nothing_else_is_needed(model: Loaded) -> None:
    memory = MemoryChoice(embeddings=False)
    report = run(model, [600], [50.0], trials=1, memory=memory)
    (trial,) = report.ways[0].cells[0].trials
    assert report.ways[0].methods[600].answered_from == "passages"
    assert trial.window_answer is None


@pytest.mark.parametrize("answer_from", ["passages", "memory"])
def test_prompts_that_begin_alike_are_read_once_and_answered_as_if_read_alone(
    model: Loaded, answer_from: str
) -> None:
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    depths = [0.0, 90.0, 40.0]
    together = run(model, [900], depths, trials=1, memory=memory, rank="fast")
    assert together.read < together.tokens
    for cell in together.ways[0].cells:
        alone = run(model, [900], [cell.depth], trials=1, memory=memory, rank="fast")
        assert alone.ways[0].cells == [cell]
        assert all(trial.window_answer is not None for trial in cell.trials)


def test_ways_of_answering_share_a_reading_and_answer_as_if_alone(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {name: PasskeyWay(MethodChoice(), memory) for name, memory in WAYS.items()}
    read, texts = passkey_reading.read, []
    monkeypatch.setattr(passkey_reading, "read", lambda *a, **k: texts.append(1) or read(*a, **k))
    together = run_grid(model, grid_of(model, [600], [0.0, 60.0], 1), list(asked.values()))[-1]
    assert isinstance(together, PasskeyReport)
    shared = len(texts)
    for name, way in zip(asked, together.ways, strict=True):
        texts.clear()
        alone = run(model, [600], [0.0, 60.0], trials=1, memory=WAYS[name])
        assert len(texts) == shared
        assert alone.ways == [way] and way.methods[600].answered_from == name


def test_ways_that_read_otherwise_do_not_share(model: Loaded) -> None:
    """By default, what is read for passages alone has a smaller window where that is large."""
    large = replace(model.known.facts, trained_length=1 << 15)
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    ways = [PasskeyWay(MethodChoice(), memory) for memory in WAYS.values()]
    ways.append(PasskeyWay(MethodChoice("streaming-llm"), WAYS["window"]))
    requests = [ReadingRequest(prompts, way.choice, way.memory, 4, 64) for way in ways]
    loaded = replace(model, known=replace(model.known, facts=large))
    planned = planned_readings(loaded, ways, requests, 100_000, QUESTION)
    assert [each.ways for each in planned] == [(0,), (1, 2), (3,)]
    assert planned[1].plan.searching is not None and planned[1].plans[1].searching is None


def test_what_fits_is_answered_once_for_all_ways(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = asking.Asker.ask
    monkeypatch.setattr(asking.Asker, "ask", lambda *a, **k: asked.append(1) or ask(*a, **k))
    ways = [PasskeyWay(MethodChoice(), memory) for memory in WAYS.values()]
    report = run_grid(model, grid_of(model, [150], [50.0], 1), ways)[-1]
    assert isinstance(report, PasskeyReport) and len(asked) == 1
    for way in report.ways:
        assert way.cells == report.ways[0].cells and way.methods[150].answered_from == "whole"
    assert report.ways[0].cells[0].window_accuracy is None


def test_what_was_answered_before_is_not_asked_again(model: Loaded, tmp_path: Path) -> None:
    """Interrupted after any answer, a run ends with what it would have given at once."""
    grid = grid_of(model, [150, 600], [60.0, 0.0], 1)
    ways = [PasskeyWay(MethodChoice(), memory) for memory in WAYS.values()]
    path, identity = tmp_path / "r.jsonl", {"model": "tiny"}
    whole = run_grid(model, grid, ways, journal=Journal(path, identity), rank="fast")[-1]
    assert isinstance(whole, PasskeyReport)
    lines = path.read_text().splitlines()
    assert len(lines) == 2 * 2 * 3
    for count in (0, 4, 7, 12):
        torn = '{"run": {' if count else ""
        path.write_text("".join(f"{line}\n" for line in lines[:count]) + torn)
        again = run_grid(model, grid, ways, journal=Journal(path, identity), rank="fast")[-1]
        assert isinstance(again, PasskeyReport)
        assert without_times(again) == without_times(whole)
        assert (again.read == 0) == (count == 12)


def test_the_same_beginning_is_read_again_where_texts_differ(model: Loaded) -> None:
    """Values of other lengths move the haystack, and nothing is taken from another text."""
    grid = grid_of(model, [900], [0.0, 90.0], 2, Needle("passkey", "words"))
    way = PasskeyWay(MethodChoice(), MemoryChoice())
    together = run_grid(model, grid, [way], rank="fast")[-1]
    assert isinstance(together, PasskeyReport)
    for cell in together.ways[0].cells:
        alone = run_grid(model, replace(grid, depths=[cell.depth]), [way], rank="fast")[-1]
        assert isinstance(alone, PasskeyReport) and alone.ways[0].cells == [cell]


def test_every_prompt_ends_with_the_state_of_reading_it_alone(model: Loaded) -> None:
    prompts = ContinuationPrompts(model.tokenizer, PREFIX)
    ways = [PasskeyWay(MethodChoice(), WAYS["memory"])]
    requests = [ReadingRequest(prompts, MethodChoice(), WAYS["memory"], 4, 64)]
    needle, own = Needle(), OwnText(model.tokenizer, "x", "The grass is green. It grows. " * 20)
    shared = SharedTexts(model)
    for depth, trial in ((10.0, 0), (60.0, 1), (60.0, 2), (0.0, 3)):
        quiz = needle.quiz(0, 900, depth, trial)
        text = build_text(prompts, 900, depth, quiz, own)
        (planned,) = planned_readings(model, ways, requests, len(text), quiz.question)
        one, other = (follow(each.read(text, planned)) for each in (shared, SharedTexts(model)))
        assert one.document.text == other.document.text == text.text
        saved = [each.state.save() for each in (one, other)]
        assert saved[0].keys() == saved[1].keys()
        for name in ("1.window.key", "1.window.value", "0.sinks.key"):
            rows = [each[name][:, :, -64:] for each in saved]
            assert torch.equal(*rows)
        for name in ("index", "store"):
            keys = [torch.cat([*each.stores[name].keys(1)], 2) for each in (one, other)]
            assert torch.equal(*keys)


class _Half(Processes):
    """One of two processes, which take turns; they meet in the file of results."""

    count = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def share(self, units: Sequence[Shared]) -> Iterator[Shared]:
        yield from units[self.rank :: 2]

    def gather(self, journal: Journal) -> None:
        journal.read()


def test_two_processes_give_the_report_of_one(model: Loaded, tmp_path: Path) -> None:
    grid = grid_of(model, [150, 600], [60.0, 0.0], 1)
    ways = [PasskeyWay(MethodChoice(), WAYS[name]) for name in ("memory", "window")]
    alone = run_grid(model, grid, ways)[-1]
    assert isinstance(alone, PasskeyReport)
    path = tmp_path / "r.jsonl"
    given: dict[str, object] = {"journal": Journal(path, {}), "processes": _Half(0)}
    with pytest.raises(ResourceError, match="4 of 8 answers are missing"):
        run_grid(model, grid, ways, **given)
    other = Journal(path, {})
    other.results.clear()  # as in a process that began at the same time
    report = run_grid(model, grid, ways, journal=other, processes=_Half(1))[-1]
    assert isinstance(report, PasskeyReport) and 0 < report.read < alone.read
    assert without_times(report) == without_times(alone)
