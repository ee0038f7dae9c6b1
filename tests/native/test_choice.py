"""Which of C and torch computes, and what the user is told about it."""

import subprocess
from pathlib import Path

import pytest
import torch

from lmi_cli.native import choice, compiling, cpu, library, selfcheck

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(choice, "_computed_by", "torch")
    monkeypatch.delenv("LMI_NATIVE", raising=False)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor that the library is made for."""
    monkeypatch.setattr(compiling, "is_supported", lambda: True)
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(cpu, "features", lambda: choice._NEEDED)
    return monkeypatch


def by() -> str:
    return choice.computed_by(torch.bfloat16, CPU)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_NATIVE", "0")
    assert choice.use_library() is None
    assert by() == "torch (LMI_NATIVE is 0)"


def test_another_processor(capable: pytest.MonkeyPatch) -> None:
    capable.setattr(cpu, "features", lambda: choice._NEEDED - {"avx512_vnni"})
    assert choice.use_library() is None
    assert by() == "torch (the processor has no avx512_vnni)"
    capable.setattr(cpu, "computes_bfloat16", lambda: False)
    assert choice.use_library() is None
    assert by() == "torch (the processor has no AVX512-BF16)"


def test_a_library_that_is_missing_damaged_or_outdated(
    capable: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def said(found: str) -> None:
        note = choice.use_library()
        assert note is not None and "lmi_cli.native.compiling" in note
        assert found in note and found in by()
        assert not library.is_open()

    capable.setattr(choice, "_folder", tmp_path)
    missing = FileNotFoundError("no manifest")
    capable.setattr(compiling, "changed_since", lambda folder: raise_(missing))
    said("has not been compiled")
    capable.setattr(compiling, "changed_since", lambda folder: ["kernels.so", "linear.c"])
    said("is damaged")
    capable.setattr(compiling, "changed_since", lambda folder: ["linear.c", "step.c"])
    said("is out of date (linear.c, step.c)")
    capable.setattr(compiling, "changed_since", lambda folder: [])
    (tmp_path / compiling.LIBRARY).write_bytes(b"not a library")
    said("cannot be opened")


def raise_(error: Exception) -> list[str]:
    raise error


def test_a_library_of_other_functions(capable: pytest.MonkeyPatch) -> None:
    """One that opens and lacks what is called, such as the one of another version."""
    capable.setattr(compiling, "changed_since", lambda folder: [])
    capable.setattr(choice, "_folder", Path())
    capable.setattr(compiling, "LIBRARY", "libm.so.6")
    note = choice.use_library()
    assert note is not None and "cannot be opened" in note
    assert not library.is_open()


def test_a_sound_library(native: None) -> None:
    assert choice.use_library() is None
    assert library.is_open()
    assert by() == "C"
    # Only bfloat16 on the CPU is computed in C.
    assert choice.computed_by(torch.float32, CPU) == "torch"
    assert choice.computed_by(torch.bfloat16, torch.device("cuda")) == "torch"


# One slip in each kernel: file, what stands there, what stands there instead, what is found wrong.
SLIPS = [
    ("linear.h", "even[j] = bias_of(linear, panel, j)", "even[j] = _mm512_setzero_ps()", "linear"),
    ("linear.h", "last = first + FLUSH < pairs ? first + FLUSH : pairs", "last = pairs - 2",
     "quantized linear"),
    ("linear.h", "rows - first, 0, 16)) - 1", "rows - first, 0, 15)) - 1", "linear"),
    ("linear.c", "STRIP + 16 * j, unit", "STRIP + 16 * j, most", "quantized linear"),
    ("linear.c", "id % STRIP * 2", "id % STRIP", "embed"),
    ("pointwise.h", "sqrtf(mean + epsilon)", "sqrtf(mean) + epsilon + 0.1f", "norm"),
    ("pointwise.h", "_mm512_loadu_ps(sine + half + at)", "_mm512_loadu_ps(sine + at)", "rotate"),
    ("pointwise.c", "row * all->rotation_row", "0", "rotate"),
    ("attention.h", "range->farthest + 1 -", "range->farthest -", "attention"),
    ("linear.c", "weight + 2 * column,", "weight + column,", "linear"),
    ("tiles.h", "_tile_loadd(7, row + 32,", "_tile_loadd(7, row,", "linear"),
    ("attention.c", "size, true, tile->weights", "size, false, tile->weights", "attention"),
    ("step.c", "layer->norm_key, shape", "layer->norm_query, shape", "step"),
    ("step.c", "ADD, active", "STORE, active", "step"),
]  # fmt: skip


OF_TILES = ("tiles.h", "weight + 2 * column,", "size, true, tile->weights")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new", "kernel"), SLIPS)
def test_a_slip_in_any_kernel_is_found(
    built_library: Path, tmp_path: Path, file: str, old: str, new: str, kernel: str
) -> None:
    if not library.has_tiles() and (file in OF_TILES or old in OF_TILES):
        pytest.skip("the processor has no AMX")
    for path in (*compiling.FOLDER.glob("*.c"), *compiling.FOLDER.glob("*.h")):
        text = path.read_text()
        if path.name == file:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / path.name).write_text(text)
    flags = compiling.FLAGS[1:]
    sources = map(str, tmp_path.glob("*.c"))
    subprocess.run(
        ["gcc", "-O1", *flags, *sources, "-o", str(tmp_path / "slip.so"), "-lm"], check=True
    )
    library.use(tmp_path / "slip.so")
    assert kernel in selfcheck.wrong_kernels()


def test_no_kernel_is_wrong(c_library: None) -> None:
    assert selfcheck.wrong_kernels() == []
