"""Methods side by side, strided windows, sources by themselves, and runs that go on."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import TRAINED_LENGTH, shared_model
from transformers import AutoModelForCausalLM

from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.processes import Processes, Shared
from lmi_cli.sources import Corpus
from lmi_cli.tasks import scored_stream
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.perplexity import MethodScore, PerplexityReport, perplexity
from lmi_cli.tasks.scored_text import PIECE_TOKENS
from lmi_cli.tasks.scoring import ScoringMethod, ScoringRequest, windows_of
from lmi_cli.text.stream import TokenStream
from lmi_cli.text.tokenizer import Tokenizer

Corpora = Callable[..., Corpus]
TEXT = " ".join(f"{number}: The grass is green." for number in range(150))
LONG = "".join(f"{number}: The grass is green. The sky is blue.\n" for number in range(900))


def method(name: str, stride: int | None = None, **given: int | str) -> ScoringMethod:
    return ScoringMethod(MethodChoice(name, given), stride)


def run(
    loaded: Loaded,
    corpus: Corpus,
    *methods: ScoringMethod,
    events: list[object] | None = None,
    processes: Processes | None = None,
    **options: Any,
) -> PerplexityReport:
    stream = TokenStream(corpus, loaded.tokenizer)
    task = perplexity(loaded, stream, ScoringRequest(methods, **options), processes)
    return follow(task, (lambda event: None) if events is None else events.append)


def figures(score: MethodScore) -> MethodScore:
    """What must not depend on how a score came about."""
    losses = None if score.nll is None else tuple(np.nan_to_num(score.nll, nan=-1.0).tolist())
    return replace(score, timing=None, cache_bytes=0, nll=losses)  # type: ignore[arg-type]


def same(one: PerplexityReport, other: PerplexityReport) -> bool:
    return list(map(figures, one.methods)) == list(map(figures, other.methods))


@pytest.fixture(scope="module")
def stock() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(shared_model(), dtype=torch.float32)


def test_full_gives_the_loss_of_transformers(
    loaded: Loaded, corpus: Corpora, stock: torch.nn.Module
) -> None:
    ids = torch.tensor(loaded.tokenizer.encode(TEXT).ids.astype(np.int64))[None]
    with torch.inference_mode():
        loss = float(stock(ids, labels=ids).loss)
    (found,) = run(loaded, corpus(TEXT), method("full")).methods
    assert found.score.nll == pytest.approx(loss, rel=1e-6)


def documented(model: torch.nn.Module, ids: list[int], size: int, stride: int) -> dict[str, float]:
    """The protocol of "Perplexity of fixed-length models", and the mean of all its losses."""
    weighted, weights, losses, done = 0.0, 0, list[float](), 0
    for begin in range(0, len(ids), stride):
        end = min(begin + size, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : len(labels[0]) - (end - done)] = -100
        with torch.inference_mode():
            found = model(window, labels=labels)
            each = torch.nn.functional.cross_entropy(
                found.logits[0, :-1].double(), labels[0, 1:], reduction="none"
            )
        losses += each[labels[0, 1:] != -100].tolist()
        counted = int((labels != -100).sum()) - 1
        weighted, weights = weighted + float(found.loss) * counted, weights + counted
        done = end
        if end == len(ids):
            break
    return {"documented": weighted / weights, "exact": math.fsum(losses) / len(losses),
            "tokens": len(losses)}  # fmt: skip


@pytest.mark.parametrize(("size", "stride"), [(60, 24), (60, 60), (TRAINED_LENGTH, 100), (7, 1)])
@pytest.mark.parametrize("bos", [False, True])
def test_a_stride_gives_the_documented_protocol(
    loaded: Loaded, corpus: Corpora, stock: torch.nn.Module, size: int, stride: int, bos: bool
) -> None:
    length = 120 if stride == 1 else 500
    if bos:
        tokenizer = Tokenizer(loaded.tokenizer._template, bos_id=0)
        loaded = replace(loaded, known=replace(loaded.known, stored_tokenizer=tokenizer))
    ids = [0] * bos + loaded.tokenizer.encode(TEXT).ids[:length].tolist()
    expected = documented(stock, ids, size, stride)
    asked = method("truncate", stride, window=size)
    (found,) = run(loaded, corpus(TEXT), asked, length=length, keep_nll=True).methods
    assert found.score.tokens == expected["tokens"]
    assert found.score.nll == pytest.approx(expected["exact"], rel=1e-6)
    assert found.documented_nll == pytest.approx(expected["documented"], rel=1e-6)
    assert found.nll is not None and len(found.nll) == length
    assert np.nansum(found.nll, dtype=np.float64) == pytest.approx(found.score.total)
    assert found.method == {"name": "truncate", "window": size, "truncation_side": "left",
                            "stride": stride}  # fmt: skip


@pytest.mark.parametrize(("tokens", "size", "stride"), [(1, 5, 3), (5, 5, 3), (6, 5, 3), (9, 4, 4)])
def test_windows_score_every_token_once(tokens: int, size: int, stride: int) -> None:
    windows = list(windows_of(tokens, size, stride))
    assert [place for w in windows for place in range(w.new, w.stop)] == list(range(tokens))
    assert all(w.stop - w.begin <= size and w.begin % stride == 0 for w in windows)


def test_a_stride_that_makes_no_sense_is_refused(loaded: Loaded, corpus: Corpora) -> None:
    for asked in (
        method("full", 10),
        method("truncate", TRAINED_LENGTH + 1),
        method("truncate", 0),
    ):
        with pytest.raises(UsageError, match="--stride"):
            run(loaded, corpus(TEXT), asked)


def test_methods_side_by_side_are_what_each_is_alone(loaded: Loaded, corpus: Corpora) -> None:
    asked = [method("full"), method("truncate"), method("streaming-llm", window=64)]
    both = run(loaded, corpus(TEXT), *asked, keep_nll=True)
    alone = [run(loaded, corpus(TEXT), each, keep_nll=True).methods[0] for each in asked]
    assert list(map(figures, both.methods)) == list(map(figures, alone))
    assert len({score.score.nll for score in both.methods}) == 3


def test_each_source_is_scored_as_if_it_were_alone(loaded: Loaded, corpus: Corpora) -> None:
    texts = [TEXT, "The sky is blue.", "x", TEXT[:900]]
    found = run(loaded, corpus(*texts, TEXT), method("lm-infinite"), method("truncate"), each=True,
                length=300, keep_nll=True)  # fmt: skip
    assert [source.tokens for source in found.sources][2] == 1 and not found.short
    for number, score in enumerate(found.methods):
        asked = [method("lm-infinite"), method("truncate")][number]
        losses = []
        for text, part in zip([*texts, TEXT], score.sources, strict=True):
            if text == "x":
                assert part is None
                losses.append(np.array([np.nan], dtype=np.float32))
                continue
            (alone,) = run(loaded, corpus(text), asked, length=300, keep_nll=True).methods
            assert part == alone.score and alone.nll is not None
            losses.append(alone.nll)
        np.testing.assert_array_equal(score.nll, np.concatenate(losses))
        assert score.headers is None
        parts = [part for part in score.sources if part is not None]
        assert score.score.tokens == sum(part.tokens for part in parts)


def stopped(
    loaded: Loaded, corpus: Corpus, tokens: int, *methods: ScoringMethod, **options: Any
) -> None:
    """A run that ends in the middle."""
    stream = TokenStream(corpus, loaded.tokenizer)
    task = perplexity(loaded, stream, ScoringRequest(methods, **options))
    for event in task:
        if isinstance(event, Progress) and event.done >= tokens:
            break
    task.close()


@pytest.mark.parametrize("name", ["lm-infinite", "sir-llm", "full", "truncate"])
def test_an_interrupted_run_goes_on_to_the_same_figures(
    loaded: Loaded, corpus: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(scored_stream, "FIRST_SAVE_S", 0.0)
    monkeypatch.setattr(scored_stream, "_SAVE_SHARE", 0)
    pieces = 1 if name in ("full", "sir-llm") else 2  # which take longer
    options: dict[str, Any] = {"keep_nll": True, "chunk": 150 if name == "sir-llm" else 128}
    options["length"] = pieces * PIECE_TOKENS + 700
    whole = run(loaded, corpus(LONG), method(name), **options)
    options["results"] = results = tmp_path / "r.jsonl"
    reads = 2 if name == "truncate" else 1
    stop = reads * ((pieces - 1) * PIECE_TOKENS + 4500)
    stopped(loaded, corpus(LONG), stop, method(name), **options)
    kept = list(tmp_path.glob("*.state"))
    assert len(kept) == (name not in ("full", "truncate"))
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines) + lines[-1][:50])  # as if killed while writing
    events: list[object] = []
    again = run(loaded, corpus(LONG), method(name), events=events, **options)
    assert same(whole, again)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(note.startswith("continuing after the ") for note in notes) == bool(kept)
    assert any("damaged" in note for note in notes)
    assert again.methods[0].timing.prefill_s > 0 and not list(tmp_path.glob("*.state*"))
    events.clear()
    last = run(loaded, corpus(LONG), method(name), events=events, **options)
    assert same(whole, last) and last.methods[0].timing.prefill_s == 0
    assert not any(isinstance(event, Progress) for event in events)


@pytest.mark.parametrize("harm", ["damaged", "ahead", "other"])
def test_a_state_that_cannot_be_used_is_left_and_that_is_said(
    loaded: Loaded, corpus: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(scored_stream, "FIRST_SAVE_S", 0.0)
    monkeypatch.setattr(scored_stream, "_SAVE_SHARE", 0)
    options: dict[str, Any] = {"length": PIECE_TOKENS + 900, "results": tmp_path / "r.jsonl"}
    stopped(loaded, corpus(LONG), PIECE_TOKENS + 500, method("lm-infinite"), **options)
    (state,) = tmp_path.glob("*.state")
    if harm == "damaged":
        data = bytearray(state.read_bytes())
        data[-9] ^= 1
        state.write_bytes(data)
    elif harm == "ahead":
        options["results"].write_bytes(b"")
    else:
        stopped(loaded, corpus("!" + LONG), PIECE_TOKENS + 500, method("lm-infinite"), **options)
        (other,) = set(tmp_path.glob("*.state")) - {state}
        other.replace(state)
    events: list[object] = []
    found = run(loaded, corpus(LONG), method("lm-infinite"), events=events, **options)
    del options["results"]
    assert same(found, run(loaded, corpus(LONG), method("lm-infinite"), **options))
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert "scored again from its beginning" in note


class Half(Processes):
    """One of two processes, which meet in the file of results; the second does what is left."""

    count = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def share(self, units: Sequence[Shared]) -> Iterator[Shared]:
        yield from units if self.rank else units[::2]


def test_two_processes_give_what_one_gives(loaded: Loaded, corpus: Corpora, tmp_path: Path) -> None:
    asked = [method("full"), method("truncate", 50, window=100)]
    texts = [TEXT, LONG[:8_000], TEXT[:500]]
    whole = run(loaded, corpus(*texts), *asked, each=True)
    options: dict[str, Any] = {"each": True, "results": tmp_path / "r.jsonl"}
    with pytest.raises(KeyError):  # the other half is not there
        run(loaded, corpus(*texts), *asked, processes=Half(0), **options)
    assert same(whole, run(loaded, corpus(*texts), *asked, processes=Half(1), **options))


def test_results_are_of_one_text_and_one_method(
    loaded: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    """Another source beside, or another method, leaves the results of others as they are."""
    results = tmp_path / "r.jsonl"
    run(loaded, corpus(TEXT, LONG[:500]), method("full"), each=True, results=results)
    before = len(results.read_bytes().splitlines())
    found = run(loaded, corpus(TEXT, LONG[:600]), method("full"), each=True, results=results)
    assert len(results.read_bytes().splitlines()) == before + 1
    assert same(found, run(loaded, corpus(TEXT, LONG[:600]), method("full"), each=True))
    other = run(loaded, corpus(TEXT), method("streaming-llm", window=32), results=results)
    assert same(other, run(loaded, corpus(TEXT), method("streaming-llm", window=32)))
