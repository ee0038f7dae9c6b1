"""Embeddings and likelihood, against the formulas written out."""

import numpy as np
import pytest
import torch
from tiny_models import precisely, random_ids, tiny_model

from lmi_cli.engine.embedding import embed_passages, embed_question, middle_directions
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.likelihood import mean_log_likelihood
from lmi_cli.methods import LMInfinite
from lmi_cli.methods.full import Full
from lmi_cli.models.causal_lm import CausalLM


def test_directions_are_the_middle_singular_vectors_of_the_output_projection() -> None:
    model = tiny_model("llama")
    with CausalLM(model) as lm:
        found = middle_directions(lm)
        assert not (found.requires_grad or lm.output_rows(0, 3).requires_grad)
    weight = model.get_output_embeddings().weight.double()
    vectors = torch.linalg.svd(weight, full_matrices=False).Vh.T
    hidden = weight.shape[1]
    middle = vectors[:, hidden // 4 : hidden // 4 + hidden // 2]
    assert found.shape == (hidden, hidden // 2)
    torch.testing.assert_close(
        found.double() @ found.double().T, middle @ middle.T, atol=1e-4, rtol=0
    )


def test_what_all_passages_and_empty_questions_share_does_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    states, empty = torch.randn(4, 6, generator=generator), torch.randn(3, 6, generator=generator)
    directions = torch.linalg.qr(torch.randn(6, 3, generator=generator)).Q
    shift = torch.randn(6, generator=generator)
    passages = embed_passages(states, directions)
    torch.testing.assert_close(passages, embed_passages(states + shift, directions))
    asked = embed_question(states[1], empty, directions)
    torch.testing.assert_close(asked, embed_question(states[1] + shift, empty + shift, directions))
    centred = (states - states.mean(0)) @ directions
    cosine = torch.nn.functional.cosine_similarity(
        centred, ((states[1] - empty.mean(0)) @ directions)[None]
    )
    torch.testing.assert_close(passages @ asked, cosine)


@pytest.mark.parametrize("chunk", [3, 64])
def test_likelihood_is_that_of_the_question_alone(chunk: int) -> None:
    model = tiny_model("llama", torch.float64)
    ids = random_ids(21)
    context, question = ids[:15], ids[15:]
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].log_softmax(-1)
    want = np.mean([float(logits[at - 1, ids[at]]) for at in range(15, 21)])
    with CausalLM(model) as lm, precisely(model):
        found = mean_log_likelihood(Engine(lm, Full(), chunk), context, question)
    assert found == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_fewer_layers_give_the_same_keys(name: str) -> None:
    """And the model has all its layers again afterwards."""
    model, ids = tiny_model(name), random_ids(40)
    with CausalLM(model) as lm:
        whole, part = (Engine(lm, LMInfinite(12, 2, 12), 8, depth=depth) for depth in (None, 1))
        states = [engine.start() for engine in (whole, part)]
        for engine, state in zip((whole, part), states, strict=True):
            for event in engine.read(state, [ids]):
                assert len(event.hidden) == 8 and event.last.isfinite().all()
        assert [len(state.caches) for state in states] == [2, 1]
        full, first = (state.caches[0].save() for state in states)
        for place, tensor in full.items():
            torch.testing.assert_close(first[place], tensor)
        again = whole.start()
        assert [e.last for e in whole.read(again, [ids])][-1].isfinite().all()
        torch.testing.assert_close(again.caches[1].save(), states[0].caches[1].save())


def test_passages_without_a_token_that_counts_change_nothing() -> None:
    states, directions = torch.randn(4, 6), torch.eye(6)[:, :3]
    with_empty = torch.cat((torch.zeros(1, 6), states))
    found = embed_passages(with_empty, directions)
    torch.testing.assert_close(found[1:], embed_passages(states, directions))
    assert (found[0] == 0).all()
