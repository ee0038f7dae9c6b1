"""Which library multiplies is chosen for the linear layers of one token, and put back."""

import os
import subprocess
import sys

import pytest
import torch

from lmi_cli.native import onednn

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "IS_X86", True)


def enabled() -> bool:
    return bool(torch.backends.mkldnn.enabled)


def test_one_token_is_multiplied_without_onednn_but_attends_with_it() -> None:
    with onednn.linear_layers(1, CPU):
        assert not enabled()
        with onednn.attention():
            assert enabled()
        assert not enabled()
    assert enabled()


@pytest.mark.parametrize(("tokens", "device"), [(2, "cpu"), (1, "meta")])
def test_everything_else_is_left_alone(tokens: int, device: str) -> None:
    with onednn.linear_layers(tokens, torch.device(device)):
        assert enabled()


def test_it_is_put_back_when_a_layer_fails() -> None:
    with pytest.raises(ValueError), onednn.linear_layers(1, CPU), onednn.attention():
        raise ValueError
    assert enabled()


def test_a_user_who_does_without_onednn_keeps_doing_without() -> None:
    torch.backends.mkldnn.enabled = False
    try:
        with onednn.linear_layers(1, CPU), onednn.attention():
            assert not enabled()
        assert not enabled()
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.parametrize("rows", [1, 7])
def test_both_libraries_give_the_same_product(rows: int) -> None:
    x, weight = torch.randn(rows, 96).bfloat16(), torch.randn(40, 96).bfloat16()
    exact = x.double() @ weight.double().T
    with onednn.linear_layers(rows, CPU):
        ours = torch.nn.functional.linear(x, weight)
    # Products are summed in float32 and rounded once, to eight significant bits.
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-4)


def test_a_limit_of_the_user_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    onednn.bound_caches()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ["LRU_CACHE_CAPACITY"] == "32"


GROWTH = """
from pathlib import Path
from lmi_cli.native import onednn
onednn.bound_caches()
import torch

def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def multiply(shapes):
    for tokens in shapes:
        torch.nn.functional.linear(torch.randn(tokens, 256).bfloat16(), weight)

weight = torch.randn(256, 256).bfloat16()
multiply(range(2, 100))
before = resident_mib()
multiply(range(100, 400))
print(resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_every_new_length_costs_no_memory() -> None:
    """Without the bound these lengths take 200 MiB."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True)
    assert float(done.stdout) < 40
