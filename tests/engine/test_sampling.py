"""Choosing a token."""

import pytest
import torch

from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import UsageError

PROBABILITIES = torch.tensor([0.15, 0.45, 0.05, 0.35])
LOGITS = PROBABILITIES.log() + 7.0


def shares(sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    generator = sampling.generator(0)
    drawn = [sampling.choose(LOGITS, generator) for _ in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=4) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.15, 0.45, 0.05, 0.35]),
        (Sampling(temperature=1.0, top_k=1), [0, 1, 0, 0]),
        (Sampling(temperature=1.0, top_k=2), [0, 0.5625, 0, 0.4375]),
        (Sampling(temperature=1.0, top_k=9), [0.15, 0.45, 0.05, 0.35]),
        (Sampling(temperature=1.0, top_p=0.01), [0, 1, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.44), [0, 1, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.46), [0, 0.5625, 0, 0.4375]),
        (Sampling(temperature=1.0, top_p=0.81), [0.1579, 0.4737, 0, 0.3684]),
        (Sampling(temperature=1.0, top_p=0.999), [0.15, 0.45, 0.05, 0.35]),
        # The order is top-k first: of the two that are left the first has 0.5625.
        (Sampling(temperature=1.0, top_k=2, top_p=0.5), [0, 1, 0, 0]),
        (Sampling(temperature=0.5), [0.0629, 0.5664, 0.0070, 0.3427]),
        (Sampling(temperature=1e6), [0.25, 0.25, 0.25, 0.25]),
        (Sampling(temperature=1e-3), [0, 1, 0, 0]),
        (Sampling(temperature=1e-300), [0, 1, 0, 0]),
    ],
    ids=str,
)
def test_tokens_come_in_their_proportions(sampling: Sampling, expected: list[float]) -> None:
    got = shares(sampling)
    torch.testing.assert_close(got, torch.tensor(expected).float(), rtol=0, atol=0.03)
    assert not got[torch.tensor(expected) == 0].any()


def test_greedy_takes_the_first_of_equals() -> None:
    sampling = Sampling()
    assert sampling.choose(torch.tensor([1.0, 3.0, 3.0]), sampling.generator(0)) == 1


@pytest.mark.parametrize("seed", [0, 1, 2**62, -5])
def test_a_seed_and_an_index_decide(seed: int) -> None:
    def drawn(seed: int, index: int) -> list[int]:
        sampling = Sampling(temperature=2.0, seed=seed)
        generator = sampling.generator(index)
        return [sampling.choose(LOGITS, generator) for _ in range(50)]

    assert drawn(seed, 3) == drawn(seed, 3)
    assert drawn(seed, 3) != drawn(seed, 4)
    assert drawn(seed, 3) != drawn(seed + 1, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"top_k": -1},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**options)
