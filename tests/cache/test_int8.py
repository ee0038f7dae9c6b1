"""Eight bits a number: how much is lost, and that a store of them is like any other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.attention.int8 import dequantize, quantize
from lmi_cli.cache import store as store_module
from lmi_cli.cache.store import TokenStore


@given(
    seed=st.integers(0, 999),
    size=st.sampled_from([1, 2, 16, 64]),
    magnitude=st.sampled_from([1e-3, 1.0, 300.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_error_is_half_a_scale(
    seed: int, size: int, magnitude: float, dtype: torch.dtype
) -> None:
    x = (torch.randn(2, 3, 5, size, generator=torch.Generator().manual_seed(seed)) * magnitude).to(
        dtype
    )
    codes, scale = quantize(x)
    assert codes.dtype == torch.int8 and scale.dtype == dtype
    error = (codes.double() * scale.double() - x.double()).abs()
    # The scale is rounded to the dtype, so the largest component may lie beyond the last code; and
    # the quotient is rounded, so a tie may go the other way.
    rounding = torch.finfo(dtype).eps * 127
    assert (error <= (0.5 + rounding) * scale.double() * (1 + 1e-9)).all()


def test_a_row_of_zeros_stays_one() -> None:
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 1, 2] = -3.0
    assert torch.equal(dequantize(*quantize(x)), x)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BLOCK_TOKENS", 8)


def test_a_store_of_eight_bits_takes_up_forks_and_restores_like_any_other() -> None:
    key, value = torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    store = TokenStore({0: None}, with_values=True, first=3, int8=True)
    for at in range(0, 30, 7):
        store.append(0, key[:, :, at : at + 7], value[:, :, at : at + 7], at)
    fork = store.fork()
    fork.append(0, key, value, 30)
    restored = TokenStore({0: None}, with_values=True, first=3, int8=True)
    restored.restore(fork.save()[1])
    for one, tokens in ((store, 27), (fork, 57), (restored, 57)):
        assert one.tokens == tokens
        blocks = list(one.key_blocks(0))
        assert [block.start for block in blocks] == list(range(3, 3 + tokens, 8))
        for part, given_ in ((0, key), (1, value)):
            found = torch.cat([dequantize(block[part], block[part + 3]) for block in blocks], 2)
            expected = dequantize(*quantize(torch.cat((given_[:, :, 3:], given_), 2)))
            assert torch.equal(found, expected[:, :, :tokens])
    whole = TokenStore({0: None}, with_values=True, first=3)
    whole.append(0, key, value, 0)
    assert store.nbytes < 0.35 * whole.nbytes  # 20 bytes instead of 64
