"""Nothing that keeps the library in C from being built is an error."""

import sys
from pathlib import Path

import pytest
import torch

from lmi_cli.native import compiling, cpu, library


@pytest.fixture(autouse=True)
def _closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(compiling, "_computed_by", "torch")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An empty cache, and the library wanted."""
    monkeypatch.delenv("LMI_NATIVE", raising=False)
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    return monkeypatch


def by() -> str:
    compiling.use_library()
    assert not library.is_open()
    return compiling.computed_by(torch.bfloat16, torch.device("cpu"))


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_NATIVE", "0")
    assert by() == "torch (LMI_NATIVE is 0)"


def test_no_compiler(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(cpu, "computes_bfloat16", lambda: True)
    fresh.setattr(cpu, "features", lambda: compiling._NEEDED)
    fresh.setenv("PATH", "/nowhere")
    assert by() == "torch (no C compiler)"


def test_a_compiler_that_fails(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setattr(cpu, "computes_bfloat16", lambda: True)
    fresh.setattr(cpu, "features", lambda: compiling._NEEDED)
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('cannot do that')\n")
    compiler.chmod(0o755)
    fresh.setenv("PATH", str(tmp_path))
    assert by() == "torch (cc failed: cannot do that)"
    assert not list((tmp_path / "native").iterdir())


def test_another_processor(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(cpu, "computes_bfloat16", lambda: False)
    assert by() == "torch (the processor has no AVX512-BF16)"


def test_a_processor_that_lacks_something_else(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(cpu, "computes_bfloat16", lambda: True)
    fresh.setattr(cpu, "features", lambda: compiling._NEEDED - {"avx512_vnni"})
    assert by() == "torch (the processor has no avx512_vnni)"


def test_a_damaged_library(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    fresh.setattr(compiling, "_built", lambda: damaged)
    assert by().startswith("torch (the library cannot be opened")


def test_a_library_of_other_functions(fresh: pytest.MonkeyPatch) -> None:
    """One that opens and lacks what is called."""
    fresh.setattr(compiling, "_built", lambda: Path("libm.so.6"))
    assert by().startswith("torch (the library cannot be opened")


def test_only_bfloat16_on_the_processor_is_computed_in_c(c_library: None) -> None:
    compiling._computed_by = "C"
    assert compiling.computed_by(torch.bfloat16, torch.device("cpu")) == "C"
    assert compiling.computed_by(torch.float32, torch.device("cpu")) == "torch"
    assert compiling.computed_by(torch.bfloat16, torch.device("cuda")) == "torch"
