"""What becomes of memory that is freed, and what the processor can do."""

import os

import pytest
import torch

from lmi_cli.native import cpu
from lmi_cli.native.cpu import keep_freed_memory, return_freed_memory


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
    keep_freed_memory()
    assert library.settings == settings
    return_freed_memory()
    assert library.settings == settings | ({-3: 128 * 2**10} if settings else {})


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: asked.append(name) or object())
    keep_freed_memory()
    assert asked == [None]


def test_bfloat16_is_multiplied_where_torch_would_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert cpu.computes_bfloat16() == ("avx512_bf16" in cpu.features())
    else:
        assert not cpu.computes_bfloat16()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert not cpu.computes_bfloat16()


@pytest.mark.parametrize(("in_c", "count"), [(True, "1000"), (False, "10000")])
def test_idle_threads_of_torch_sleep_soon_unless_the_user_says_otherwise(
    in_c: bool, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT")
    cpu.bound_active_waiting(in_c=in_c)
    assert os.environ["GOMP_SPINCOUNT"] == count
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    cpu.bound_active_waiting(in_c=in_c)
    assert os.environ["GOMP_SPINCOUNT"] == "7"
