"""What holds for every method in the table, so that a new one is tested by being added."""

import pytest
import torch
from tiny_models import our_logits, random_ids, stock_logits, tiny_model

from lmi_cli.methods import METHODS, Method

WINDOW = 9
# Options that make a method work within the texts below; a new method may need some.
OPTIONS: dict[str, dict[str, int]] = {"lm-infinite": {"window": WINDOW, "sinks": 4}}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param].build(OPTIONS.get(request.param, {}), WINDOW, 0)


def test_within_its_window_it_is_the_stock_model(method: Method) -> None:
    model, ids = tiny_model("llama"), random_ids(WINDOW)
    found, expected = our_logits(model, method, ids, 4), stock_logits(model, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1])
def test_the_cut_does_not_matter(method: Method, chunk: int) -> None:
    model, ids = tiny_model("llama"), random_ids(40)
    found, expected = (our_logits(model, method, ids, size) for size in (chunk, 40))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_no_token_sees_a_later_one(method: Method) -> None:
    model, ids = tiny_model("llama", torch.float32), random_ids(40)
    other = ids.copy()
    other[20] = 3 if ids[20] != 3 else 4
    one, two = (our_logits(model, method, given, 7) for given in (ids, other))
    assert torch.equal(one[:20], two[:20])
    assert not torch.equal(one[20], two[20])
