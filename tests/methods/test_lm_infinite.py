"""Who sees whom, read off the weights that the kernel gives."""

import itertools

import pytest
import torch
from reference import Lambda
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import Rotary
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Method, layer_bound
from lmi_cli.methods.full import Full
from lmi_cli.methods.lm_infinite import LMInfinite

COUNT = 12


def attend(
    method: Method,
    layer: LayerSpec,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chunk: int,
    origin: int = 0,
) -> Tensor:
    """Attention of one layer over ``[n, D]`` in chunks."""
    state = StreamState(method, [layer], chunk, origin=origin)
    outputs = []
    for parts in zip(*(x[None, None].split(chunk, 2) for x in (query, key, value)), strict=True):
        count = parts[0].shape[2]
        state.begin_pass()
        outputs.append(ForwardPass(state, [layer], count).attend(0, QKV(*parts, scale=1.0))[0, 0])
        state.end_pass(count)
        assert state.cached_tokens <= (layer_bound(method, layer, chunk) or len(query) * 2)
    return torch.cat(outputs)


def seen(method: Method, chunk: int, *, native: int | None = None, origin: int = 0) -> Tensor:
    """The mask ``[query, key]``: equal scores, and values that say which key they belong to."""
    nothing, names = torch.zeros(COUNT, 1), torch.eye(COUNT)
    layer = LayerSpec(0, None, native)
    return attend(method, layer, nothing, nothing, names, chunk, origin) > 0


@pytest.mark.parametrize("chunk", range(1, COUNT + 1))
def test_the_mask(chunk: int) -> None:
    """Every window and every number of sinks; fewer tokens are the upper rows."""
    for window, sinks in itertools.product(range(1, COUNT + 2), range(COUNT + 2)):
        near, far = Lambda(window, sinks, window).masks(COUNT)
        mask = seen(LMInfinite(window, sinks, window), chunk)
        assert torch.equal(mask, near | far), (window, sinks)


@pytest.mark.parametrize("native", range(1, COUNT + 1))
@pytest.mark.parametrize("chunk", [1, 5, COUNT])
def test_the_mask_of_a_layer_with_its_own_window(chunk: int, native: int) -> None:
    for window, sinks in itertools.product(range(1, COUNT + 1), (0, 3)):
        near, far = Lambda(window, sinks, window).masks(COUNT, native)
        mask = seen(LMInfinite(window, sinks, window), chunk, native=native)
        assert torch.equal(mask, near | far), (window, sinks)
    distance = torch.arange(COUNT)[:, None] - torch.arange(COUNT)
    banded = (distance >= 0) & (distance < native)
    assert torch.equal(seen(Full(), chunk, native=native), banded)


def test_full_sees_everything_before() -> None:
    assert torch.equal(seen(Full(), 5), torch.ones(COUNT, COUNT).tril().bool())


@pytest.mark.parametrize("sinks", [1, 4, 20])
def test_sinks_belong_to_the_stream_and_not_to_position_zero(sinks: int) -> None:
    method = LMInfinite(3, sinks, 3)
    assert torch.equal(seen(method, 5, origin=2**40), seen(method, 5))


@pytest.mark.parametrize("ceiling", [8, 31])
def test_sinks_stay_at_one_distance(ceiling: int) -> None:
    """The same token everywhere: once all sinks have left the window nothing changes any more."""
    window, sinks, count = 8, 3, 300
    rotary = Rotary(1.0 / 100.0 ** (torch.arange(0, 8, 2) / 8))
    query = torch.randn(1, 8, dtype=torch.float64).expand(count, -1)
    key = torch.randn(1, 8, dtype=torch.float64).expand(count, -1)
    value = torch.zeros(count, 1, dtype=torch.float64)
    value[:sinks] = 1.0
    method = LMInfinite(window, sinks, ceiling)
    share = attend(method, LayerSpec(0, rotary), query, key, value, 16)[window + sinks - 1 :]
    torch.testing.assert_close(share, share[:1].expand_as(share), rtol=0, atol=1e-12)
    distances = torch.tensor([ceiling] * sinks + list(range(window)))
    turned = rotary.rotate(
        query[:1].expand(len(distances), -1),
        rotary.phases(distances, torch.float64, torch.device("cpu")),
    )
    expected = (turned @ key[0]).softmax(0)[:sinks].sum()
    torch.testing.assert_close(share[0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(0, 4, 8), (-1, 4, 8), (9, 4, 8), (8, -1, 8)])
def test_lengths_that_make_no_sense_are_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        LMInfinite(*lengths)


def test_parameters_name_every_length() -> None:
    assert LMInfinite(8, 4, 16).parameters() == {"window": 8, "sinks": 4, "ceiling": 16}
    assert Full().parameters() == {}


def test_bound() -> None:
    plain, narrow = LayerSpec(0), LayerSpec(0, native_window=5)
    assert layer_bound(Full(), plain, 7) is None
    assert layer_bound(Full(), narrow, 7) == 4 + 7
    assert layer_bound(LMInfinite(8, 3, 8), plain, 7) == 3 + 7 + 7
    assert layer_bound(LMInfinite(8, 3, 8), narrow, 7) == 4 + 7
