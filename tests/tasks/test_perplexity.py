"""Scores equal those of the stock model, whatever the chunk, and add up."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import TEXTS, TRAINED_LENGTH, shared_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lmi_cli.errors import NoInputError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.losses import LossRow, Score, loss_rows
from lmi_cli.tasks.perplexity import MethodScore, PerplexityReport, perplexity
from lmi_cli.tasks.scored_text import PIECE_TOKENS, TokenPiece
from lmi_cli.tasks.scoring import ScoringMethod, ScoringRequest
from lmi_cli.text.stream import TokenStream
from lmi_cli.text.tokenizer import Tokenizer

Corpora = Callable[..., Corpus]
TEXT = " ".join(TEXTS) + " naïve 日本語 👍🏽."


def report_of(loaded: Loaded, corpus: Corpus, **arguments: Any) -> PerplexityReport:
    settings = {"methods": [ScoringMethod(MethodChoice())], "keep_nll": True, "chunk": 37}
    stream = TokenStream(corpus, loaded.tokenizer)
    return follow(perplexity(loaded, stream, ScoringRequest(**settings | arguments)))


def score(loaded: Loaded, corpus: Corpus, **arguments: Any) -> MethodScore:
    (found,) = report_of(loaded, corpus, **arguments).methods
    return found


def stock_losses(ids: list[int]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(shared_model(), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(
        logits, torch.tensor(ids[1:]), reduction="none"
    ).numpy()


@pytest.mark.parametrize("chunk", [1, 37, 4096])
def test_scores_are_those_of_the_stock_model(loaded: Loaded, corpus: Corpora, chunk: int) -> None:
    ids = loaded.tokenizer.encode(TEXT).ids.tolist()
    assert len(ids) < TRAINED_LENGTH
    losses = stock_losses(ids)
    report = score(loaded, corpus(TEXT), chunk=chunk)
    assert report.nll is not None and report.nll.dtype == np.float32
    assert math.isnan(report.nll[0]) and len(report.nll) == len(ids)
    np.testing.assert_allclose(report.nll[1:], losses, atol=1e-4)
    figures = report.score
    assert figures.tokens == len(ids) - 1
    assert figures.nll == pytest.approx(losses.mean(), abs=1e-5)
    assert figures.ppl == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    error = figures.ppl * math.sqrt(losses.var() / (len(losses) - 1))
    assert figures.ppl_se == pytest.approx(error, rel=1e-4)
    first = loaded.tokenizer.decode(ids[:1])
    scored_bytes = len(TEXT.encode()) - len(first.encode())
    assert figures.bits_per_byte == pytest.approx(
        losses.sum() / math.log(2) / scored_bytes, rel=1e-5
    )


def test_behind_a_bos_token_the_first_is_scored_too(loaded: Loaded, corpus: Corpora) -> None:
    backend = loaded.tokenizer._template
    with_bos = replace(
        loaded, known=replace(loaded.known, stored_tokenizer=Tokenizer(backend, bos_id=0))
    )
    ids = [0, *loaded.tokenizer.encode(TEXT).ids.tolist()]
    for chunk in (1, 37):
        report = report_of(with_bos, corpus(TEXT), chunk=chunk)
        (found,) = report.methods
        assert found.nll is not None
        np.testing.assert_allclose(found.nll, stock_losses(ids), atol=1e-4)
        assert found.score.utf8_bytes == len(TEXT.encode())
        assert report.tokens == len(ids) - 1


@pytest.mark.parametrize("length", [2, 3, 50, 51])
def test_a_length_scores_the_first_tokens(loaded: Loaded, corpus: Corpora, length: int) -> None:
    text = TEXT * 30
    reports = [report_of(loaded, corpus(text), length=asked) for asked in (None, length)]
    whole, part = (report.methods[0] for report in reports)
    assert whole.nll is not None and part.nll is not None
    assert len(part.nll) == length == reports[1].tokens
    assert reports[1].sources[0].tokens == length
    np.testing.assert_allclose(part.nll[1:], whole.nll[1:length], atol=1e-5)
    assert not any(report.short for report in reports)
    start = loaded.tokenizer.encode(text)
    chars = int(start.starts[length]) - int(start.starts[1])
    first = int(start.starts[1])
    assert part.score.utf8_bytes == len(text[first : first + chars].encode())


def test_a_short_corpus_says_so(loaded: Loaded, corpus: Corpora) -> None:
    report = report_of(loaded, corpus("The grass is green."), length=100)
    assert report.short
    assert report.tokens < 100


@pytest.mark.parametrize("text", ["x", "", " \n"])
def test_too_little_to_score(loaded: Loaded, corpus: Corpora, text: str) -> None:
    with pytest.raises(NoInputError):
        score(loaded, corpus(text))


def test_too_little_in_each_source(loaded: Loaded, corpus: Corpora) -> None:
    with pytest.raises(NoInputError, match="each text has fewer"):
        report_of(loaded, corpus("x", "x"), each=True)


def test_a_text_may_end_within_a_character(loaded: Loaded, corpus: Corpora) -> None:
    (found,) = report_of(loaded, corpus("\N{CUNEIFORM SIGN A}"), length=2).methods
    assert found.score.tokens == 1 and found.score.nll > 0
    assert found.score.utf8_bytes == 0 and found.score.bits_per_byte is None


def test_tokens_of_each_source_and_of_the_headers(loaded: Loaded, corpus: Corpora) -> None:
    report = report_of(loaded, corpus("The grass.", "The sky is blue."))
    counts = [source.tokens for source in report.sources]
    assert min(counts) > 0 and sum(counts) < report.tokens
    (found,) = report.methods
    first, second = found.sources
    assert first is not None and second is not None and found.headers is not None
    assert [first.tokens, second.tokens] == counts
    parts = (first, second, found.headers)
    assert sum(part.tokens for part in parts) == found.score.tokens == report.tokens - 1
    assert math.fsum(part.total for part in parts) == pytest.approx(found.score.total, rel=1e-12)
    assert sum(part.utf8_bytes for part in parts) == found.score.utf8_bytes


def test_progress_and_warnings(loaded: Loaded, corpus: Corpora) -> None:
    events: list[object] = []
    method = ScoringMethod(MethodChoice(given={"window": 999}))
    stream = TokenStream(corpus(TEXT), loaded.tokenizer)
    request = ScoringRequest([method], length=80, chunk=40)
    report = follow(perplexity(loaded, stream, request), events.append)
    shown = [event for event in events if isinstance(event, Progress)]
    assert [(event.done, event.total) for event in shown] == [(40, 80), (80, 80)]
    (found,) = report.methods
    assert shown[-1].note == f"ppl {found.score.ppl:.2f}"
    (note,) = [event for event in events if isinstance(event, Note)]
    assert "beyond the trained length" in note.text
    assert found.nll is None


def rows_of(losses: np.ndarray, cuts: list[int]) -> list[LossRow]:
    """Rows of losses that come in parts, of tokens of two bytes from one source."""
    rows, position = [], 0
    for length in cuts:
        part = np.full(len(losses[position : position + length]), 2, dtype=np.int32)
        piece = TokenPiece(part, part - 2, part)
        rows += loss_rows(position, piece, losses[position : position + length])
        position += length
    return rows


@given(
    lengths=st.lists(st.integers(0, 3 * PIECE_TOKENS), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_sums_do_not_depend_on_how_the_losses_come(lengths: list[int], seed: int) -> None:
    losses = np.random.default_rng(seed).gamma(2.0, 1.5, sum(lengths)).astype(np.float32)
    losses[:1] = np.nan
    total = Score.of(rows_of(losses, lengths))
    known = losses[~np.isnan(losses)].astype(np.float64)
    assert total.tokens == len(known)
    if not len(known):
        return
    assert total.nll == pytest.approx(known.mean())
    for bucket in total.curve:
        piece = losses[bucket.start : bucket.end]
        piece = piece[~np.isnan(piece)].astype(np.float64)
        assert bucket.tokens == len(piece)
        assert bucket.nll == pytest.approx(piece.mean())
    assert sum(bucket.tokens for bucket in total.curve) == total.tokens


@pytest.mark.parametrize("size", [7, 300_001])
def test_sums_are_exact(size: int) -> None:
    """Sums in float32 would be wrong from the eighth digit on."""
    losses = np.random.default_rng(0).gamma(2.0, 1.5, 300_001).astype(np.float32)
    losses[0] = np.nan
    total = Score.of(rows_of(losses, [size] * -(-len(losses) // size)))
    assert total.utf8_bytes == 2 * total.tokens == 2 * (len(losses) - 1)
    exact = math.fsum(map(float, losses[1:])) / (len(losses) - 1)
    assert total.nll == pytest.approx(exact, rel=1e-12)


def test_a_perplexity_beyond_all_floats() -> None:
    total = Score.of(rows_of(np.array([900.0, 901.0], dtype=np.float32), [2]))
    assert total.ppl == math.inf and total.ppl_se is None
    spread = Score.of(rows_of(np.array([400.0, 1018.0], dtype=np.float32), [2]))
    assert math.isfinite(spread.ppl) and spread.ppl_se is None


def test_the_standard_error_is_that_of_the_mean_times_the_perplexity() -> None:
    losses = np.array([1.0, 2.0, 4.0, 0.5, 3.5], dtype=np.float32)
    total = Score.of(rows_of(losses, [2, 3]))
    error = losses.std(ddof=1) / math.sqrt(len(losses))
    assert total.ppl_se == pytest.approx(math.exp(losses.mean()) * error, rel=1e-6)
