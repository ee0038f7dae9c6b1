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


class FakeLibrary:
    """A C library that notes how it is set."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.settings[parameter] = value
        return 1


@pytest.mark.parametrize(
    ("platform", "settings"),
    [
        # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h, in bytes.
        ("linux", {-1: 512 * 2**20, -2: 64 * 2**20, -3: 32 * 2**20}),
        ("darwin", {}),
        ("win32", {}),
    ],
)
def test_freed_memory_is_kept_by_the_c_library_of_linux(
    platform: str, settings: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(cpu.sys, "platform", platform)
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: library)
    cpu.keep_freed_memory()
    assert library.settings == settings


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: asked.append(name) or object())
    cpu.keep_freed_memory()
    assert asked == [None]
