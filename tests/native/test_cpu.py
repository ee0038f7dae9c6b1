"""Which library multiplies is chosen for the linear layers of one token, and put back."""

import pytest
import torch

from lmi_cli.native import cpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "IS_X86", True)


def onednn() -> bool:
    return bool(torch.backends.mkldnn.enabled)


def test_one_token_is_multiplied_without_onednn_but_attends_with_it() -> None:
    with cpu.linear_layers(1, CPU):
        assert not onednn()
        with cpu.attention():
            assert onednn()
        assert not onednn()
    assert onednn()


@pytest.mark.parametrize(("tokens", "device"), [(2, "cpu"), (1, "meta")])
def test_everything_else_is_left_alone(tokens: int, device: str) -> None:
    with cpu.linear_layers(tokens, torch.device(device)):
        assert onednn()


def test_it_is_put_back_when_a_layer_fails() -> None:
    with pytest.raises(ValueError), cpu.linear_layers(1, CPU), cpu.attention():
        raise ValueError
    assert onednn()


def test_a_user_who_does_without_onednn_keeps_doing_without() -> None:
    torch.backends.mkldnn.enabled = False
    try:
        with cpu.linear_layers(1, CPU), cpu.attention():
            assert not onednn()
        assert not onednn()
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.parametrize("rows", [1, 7])
def test_both_libraries_give_the_same_product(rows: int) -> None:
    x, weight = torch.randn(rows, 96).bfloat16(), torch.randn(40, 96).bfloat16()
    exact = x.double() @ weight.double().T
    with cpu.linear_layers(rows, CPU):
        ours = torch.nn.functional.linear(x, weight)
    # Products are summed in float32 and rounded once, to eight significant bits.
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-4)


def test_memory_can_be_kept_wherever_this_runs() -> None:
    cpu.keep_freed_memory()
