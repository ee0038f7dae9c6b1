"""Truncation: a part is read as if it were the whole, and what is left out is said."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import TRAINED_LENGTH, shared_model
from transformers import AutoModelForCausalLM

from lmi_cli.errors import UsageError
from lmi_cli.methods import MethodChoice, Parameter
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.perplexity import perplexity
from lmi_cli.tasks.plan import MemoryChoice, ReadingRequest, document_limit
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.scoring import ScoringMethod, ScoringRequest
from lmi_cli.tasks.sight import hidden_spans
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

Corpora = Callable[..., Corpus]
TEXT = " ".join(f"{number}: The grass is green." for number in range(150))
QUESTION = "What is green?"


def request_of(model: Loaded, **given: Parameter) -> ReadingRequest:
    prompts = prompts_of(model.tokenizer, model.template, None)
    return ReadingRequest(prompts, MethodChoice("truncate", given), answer_tokens=8)


def read_text(model: Loaded, corpus: Corpus, **given: Parameter) -> Reading:
    stream = TokenStream(corpus, model.tokenizer)
    return follow(read(model, stream, request_of(model, **given), [QUESTION]))


@pytest.mark.parametrize("window", [TRAINED_LENGTH, 150])
@pytest.mark.parametrize("side", ["left", "middle"])
def test_it_is_the_reading_of_the_part_alone(
    loaded: Loaded, corpus: Corpora, side: str, window: int
) -> None:
    """The state is that behind the part; the report names what was left out."""
    reading = read_text(loaded, corpus(TEXT), truncation_side=side, window=window)
    room = document_limit(loaded.known, request_of(loaded, window=window), [QUESTION])
    ids, total = reading.document.ids, reading.document.tokens
    first = room // 2 if side == "middle" else 0
    part = np.concatenate((ids[:first], ids[total - (room - first) :]))
    assert len(part) == room < total == len(loaded.tokenizer.encode(TEXT).ids)

    whole = np.concatenate((np.array(reading.plan.prefix, dtype=np.int32), part)).tolist()
    model = AutoModelForCausalLM.from_pretrained(shared_model(), dtype=torch.float32)
    with torch.inference_mode():
        stock = model.model(torch.tensor([whole])).last_hidden_state[0, -1]
    torch.testing.assert_close(reading.last, stock, rtol=0, atol=1e-4)

    layers = loaded.known.facts.layers
    assert hidden_spans(reading, layers, 5) == [(first, total - (room - first))]
    report = reading.report()
    assert (report.form, report.unread_tokens) == ("truncated", total - room)
    asker = Asker(loaded, reading, AnswerOptions(request_of(loaded).prompts, max_new_tokens=3))
    answer = follow(asker.ask(QUESTION))
    assert answer.answered_from == "window"
    seen = answer.visible
    assert (seen.sinks, seen.window, seen.unseen) == (first, room - first, total - room)
    assert seen.unseen_from is not None


def test_a_text_that_fits_is_read_whole(loaded: Loaded, corpus: Corpora) -> None:
    reading = read_text(loaded, corpus("The grass is green."))
    assert (reading.plan.form, reading.plan.excerpt, reading.unread) == ("fits", None, 0)


@pytest.mark.parametrize(
    "memory",
    [MemoryChoice(store=True), MemoryChoice("passages"), MemoryChoice("memory", store=True)],
)
def test_index_and_store_are_refused(loaded: Loaded, corpus: Corpora, memory: MemoryChoice) -> None:
    stream = TokenStream(corpus(TEXT), loaded.tokenizer)
    request = replace(request_of(loaded), memory=memory)
    with pytest.raises(UsageError, match="truncate reads only a part of a long text"):
        follow(read(loaded, stream, request, [QUESTION]))


def test_a_window_without_room_is_refused(loaded: Loaded, corpus: Corpora) -> None:
    with pytest.raises(UsageError, match="leave no room for the text"):
        read_text(loaded, corpus(TEXT), window=20)


class TestPerplexity:
    """Windows that are each read anew, after the documentation of transformers."""

    @pytest.mark.parametrize("window", [40, 41, 250])
    def test_the_strided_protocol(self, loaded: Loaded, corpus: Corpora, window: int) -> None:
        ids = loaded.tokenizer.encode(TEXT).ids[:400]
        prefix, stride = list(loaded.tokenizer.prefix), 0
        stride = (window - len(prefix)) // 2
        model = AutoModelForCausalLM.from_pretrained(shared_model(), dtype=torch.float32)
        expected: list[Any] = [] if prefix else [np.nan]
        while len(expected) < len(ids):
            begin = max(0, len(expected) - stride)
            stop = min(len(ids), begin + 2 * stride)
            part = prefix + ids[begin:stop].tolist()
            with torch.inference_mode():
                logits = model(torch.tensor([part])).logits[0, :-1].double()
            losses = torch.nn.functional.cross_entropy(
                logits, torch.tensor(part[1:]), reduction="none"
            ).tolist()
            expected += losses[len(losses) - (stop - len(expected)) :]
        stream = TokenStream(corpus(TEXT), loaded.tokenizer)
        method = ScoringMethod(MethodChoice("truncate", {"window": window}))
        request = ScoringRequest([method], length=400, keep_nll=True)
        (found,) = follow(perplexity(loaded, stream, request)).methods
        assert found.nll is not None
        np.testing.assert_allclose(found.nll, expected, atol=1e-4)

    def test_what_cannot_be_scored_is_refused(self, loaded: Loaded, corpus: Corpora) -> None:
        for given, said in (
            ({"truncation_side": "middle"}, "the middle cannot be left out"),
            ({"window": 1}, "no room for two tokens"),
        ):
            stream = TokenStream(corpus(TEXT), loaded.tokenizer)
            method = ScoringMethod(MethodChoice("truncate", given))
            with pytest.raises(UsageError, match=said):
                follow(perplexity(loaded, stream, ScoringRequest([method])))
