"""Beyond the window: equal to the dense definition, however the stream is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Lambda, reference_logits
from tiny_models import our_logits, random_ids, tiny_model

from lmi_cli.methods.lm_infinite import LMInfinite

WINDOW = 9
COUNT = 40
CHUNKS = [1, 7, WINDOW - 1, WINDOW, WINDOW + 1, COUNT]
CEILINGS = [WINDOW, 2 * WINDOW + 3]
SINKS = [0, 4, WINDOW + 3, COUNT + 5]
MODELS = [
    "llama-mha",
    "llama-mqa",
    "llama-tied",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-dynamic",
    "cohere",
    "cohere2",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "mistral-sliding",
    "phi",
    "phi3-longrope",
    "qwen3",
    "smollm3",
]


def compare(name: str, lengths: tuple[int, int, int], chunk: int, count: int = COUNT) -> None:
    model, ids = tiny_model(name), random_ids(count)
    expected = reference_logits(model, ids, Lambda(*lengths))
    ours = our_logits(model, LMInfinite(*lengths), ids, chunk)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


class TestAgainstTheDefinition:
    @pytest.mark.parametrize("chunk", CHUNKS)
    @pytest.mark.parametrize("sinks", SINKS)
    @pytest.mark.parametrize("ceiling", CEILINGS)
    def test_every_parameter(self, ceiling: int, sinks: int, chunk: int) -> None:
        compare("llama", (WINDOW, sinks, ceiling), chunk)

    @pytest.mark.parametrize("chunk", CHUNKS)
    @pytest.mark.parametrize("name", MODELS)
    def test_every_kind_of_model(self, name: str, chunk: int) -> None:
        compare(name, (WINDOW, 4, 2 * WINDOW + 3), chunk)

    @pytest.mark.parametrize("window", [11, 12, 13, 30])
    @pytest.mark.parametrize("name", ["mistral-sliding", "gemma3_text"])
    def test_around_a_window_of_the_models_own(self, name: str, window: int) -> None:
        """Both models have windows of 12 tokens."""
        compare(name, (window, 4, window + 5), 7)

    def test_a_window_of_one_token(self) -> None:
        compare("llama", (1, 2, 3), 7)

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    def test_the_buffer_wraps_many_times(self, chunk: int) -> None:
        compare("llama", (16, 4, 16), chunk, count=10 * 16)


@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_the_cut_does_not_matter(data: st.DataObject) -> None:
    """Chunks of any size give what one pass gives."""
    window = data.draw(st.integers(1, 20))
    method = LMInfinite(
        window, data.draw(st.integers(0, 12)), window + data.draw(st.integers(0, 9))
    )
    model = tiny_model(data.draw(st.sampled_from(["llama", "llama-mha", "gemma3_text"])))
    ids = random_ids(data.draw(st.integers(1, 60)))
    whole = our_logits(model, method, ids, len(ids))
    cut = our_logits(model, method, ids, data.draw(st.integers(1, len(ids) + 3)))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [7, COUNT])
def test_no_token_sees_a_later_one(chunk: int) -> None:
    model, ids = tiny_model("llama", torch.float32), random_ids(COUNT)
    method = LMInfinite(WINDOW, 4, WINDOW)
    before = our_logits(model, method, ids, chunk)
    for changed in (0, 3, 11, COUNT - 1):
        other = ids.copy()
        other[changed] = (ids[changed] + 1) % 60 + 3
        after = our_logits(model, method, other, chunk)
        assert torch.equal(after[:changed], before[:changed])
        assert not torch.equal(after[changed], before[changed])


def test_sight_ends_with_the_window() -> None:
    """Through two layers a token reaches ``2 * (window - 1)`` further, and not one more."""
    model, ids = tiny_model("llama", torch.float32), random_ids(COUNT)
    method = LMInfinite(WINDOW, 0, WINDOW)
    before = our_logits(model, method, ids, 7)
    changed, reach = 5, 2 * (WINDOW - 1)
    other = ids.copy()
    other[changed] = (ids[changed] + 1) % 60 + 3
    same = [
        torch.equal(*pair) for pair in zip(before, our_logits(model, method, other, 7), strict=True)
    ]
    assert not any(same[changed : changed + reach + 1])
    assert all(same[:changed]) and all(same[changed + reach + 1 :])


def test_sinks_are_seen_for_ever() -> None:
    model, ids = tiny_model("llama", torch.float32), random_ids(20 * WINDOW)
    other = np.concatenate(([ids[0] - 1], ids[1:])).astype(np.int32)
    method = LMInfinite(WINDOW, 1, WINDOW)
    last = [our_logits(model, method, each, 32)[-1] for each in (ids, other)]
    assert (last[0] - last[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "origin", [2**24 - 1, 2**24 + 1, 2**29 - 60, 2**31 - 1, 2**31 + 1, 200_000_000, 2**40]
)
def test_only_differences_of_positions_matter(origin: int) -> None:
    """The 64 tokens after 3 W, as if the stream had begun far away: any absolute float32 fails."""
    model, window = tiny_model("llama", torch.float32), 16
    ids, method = random_ids(3 * window + 64), LMInfinite(window, 4, 24)
    near = our_logits(model, method, ids, 16)[3 * window :]
    far = our_logits(model, method, ids, 16, origin=origin)[3 * window :]
    torch.testing.assert_close(far, near, rtol=0, atol=1e-4)
