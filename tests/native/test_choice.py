"""Which of C and torch computes, by which instructions, and what the user is told about it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compilers import needs_gcc
from slips import Slip, SlipCompiler

from lmi_cli.native import choice, compiling, cpu, library, selfcheck, variants
from lmi_cli.native.variants import Variant

CPU = torch.device("cpu")
NAMED = {variant.name: variant for variant in variants.VARIANTS}
ALL = NAMED["avx512-bf16"].features
AVX2 = NAMED["avx2"].features


@pytest.fixture(autouse=True)
def _closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(choice, "_computed_by", "torch")
    monkeypatch.delenv("LMI_NATIVE", raising=False)


def pretend(
    patch: pytest.MonkeyPatch,
    features: frozenset[str],
    system: str = "linux",
    processor: str = "x86_64",
) -> None:
    """Be another machine."""
    patch.delenv("LMI_ISA", raising=False)
    patch.setattr(variants, "sys", SimpleNamespace(platform=system))
    patch.setattr(variants, "platform", SimpleNamespace(machine=lambda: processor))
    patch.setattr(cpu, "features", lambda: features)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor with all instructions."""
    pretend(monkeypatch, ALL)
    return monkeypatch


def by() -> str:
    return choice.computed_by(torch.bfloat16, CPU)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_NATIVE", "0")
    for name in ("", "avx2"):
        monkeypatch.setenv("LMI_ISA", name)
        assert choice.use_library() is None
        assert by() == "torch (LMI_NATIVE is 0)"
        assert not compiling.will_compute()


@pytest.mark.parametrize(
    ("system", "processor", "features", "names"),
    [
        ("linux", "x86_64", ALL, ["avx512-bf16", "avx512", "avx2"]),
        ("linux", "x86_64", ALL - {"avx512_vnni"}, ["avx512", "avx2"]),
        ("linux", "AMD64", ALL - {"avx512dq"}, ["avx2"]),
        ("linux", "aarch64", frozenset(), ["neon"]),
        ("darwin", "arm64", frozenset(), ["neon"]),
    ],
)
def test_what_a_processor_runs(
    system: str,
    processor: str,
    features: frozenset[str],
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, features, system, processor)
    assert [variant.name for variant in variants.runnable()] == names
    assert variants.chosen() == NAMED[names[0]]


@pytest.mark.parametrize(
    ("system", "processor", "features", "reason"),
    [
        ("linux", "x86_64", frozenset(), "the processor has no avx2, f16c, fma"),
        ("linux", "x86_64", AVX2 - {"fma"}, "the processor has no fma"),
        ("darwin", "x86_64", ALL, "there are no kernels for this kind of machine"),
        ("win32", "AMD64", ALL, "there are no kernels for this kind of machine"),
        ("linux", "riscv64", frozenset(), "there are no kernels for this kind of machine"),
    ],
)
def test_a_machine_for_which_there_is_nothing(
    system: str,
    processor: str,
    features: frozenset[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, features, system, processor)
    assert choice.use_library() is None
    assert by() == f"torch ({reason})"
    assert not compiling.will_compute()


def test_an_instruction_set_that_is_asked_for(
    each_library: Variant, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_ISA", each_library.name)
    assert compiling.will_compute()
    assert choice.use_library() is None
    assert by() in (f"C ({each_library.name})", f"C ({each_library.name}, amx)")
    assert ("amx" in by()) == library.uses_tiles()
    assert "amx" not in by() or each_library.name == "avx512-bf16"


@pytest.mark.parametrize("name", ["avx512", "neon", "sse9"])
def test_an_instruction_set_that_the_processor_lacks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, AVX2)
    monkeypatch.setenv("LMI_ISA", name)
    reason = f"LMI_ISA is {name}, and this processor runs avx2"
    assert choice.use_library() == f"{reason}, so torch computes, which is several times slower"
    assert by() == f"torch ({reason})"
    pretend(monkeypatch, frozenset())
    monkeypatch.setenv("LMI_ISA", name)
    choice.use_library()
    assert by() == f"torch (LMI_ISA is {name}, and this processor runs none)"


def test_a_library_that_is_missing_damaged_or_outdated(
    capable: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def said(found: str) -> None:
        note = choice.use_library()
        assert note is not None and "lmi_cli.native.compiling" in note
        assert found in note and found in by()
        assert not library.is_open()

    capable.setattr(compiling, "FOLDER", tmp_path)
    said("has not been compiled")
    name = NAMED["avx512-bf16"].file
    (tmp_path / name).write_bytes(b"not a library")
    capable.setattr(compiling, "changed_since", lambda variant: ["kernels-x.so", variant.file])
    said("is damaged")
    capable.setattr(compiling, "changed_since", lambda variant: ["linear.c", "step.c"])
    said("is out of date (linear.c, step.c)")
    assert not compiling.will_compute()
    capable.setattr(compiling, "changed_since", lambda variant: [])
    said("cannot be opened")


def test_a_library_of_other_functions(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that opens and lacks what is called, such as the one of another version."""
    monkeypatch.setitem(library._ARGUMENTS, "lmi_of_another_version", [])
    note = choice.use_library()
    assert note is not None and "cannot be opened" in note
    assert not library.is_open()


def test_a_library_that_computes_wrongly(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "wrong_kernels", lambda: ["norm", "step"])
    note = choice.use_library()
    assert note is not None and "computes wrongly (norm, step)" in note
    assert not library.is_open()


def test_a_sound_library(native: None) -> None:
    assert choice.use_library() is None
    assert library.is_open()
    assert by().startswith("C (")
    # Only bfloat16 on the CPU is computed in C.
    assert choice.computed_by(torch.float32, CPU) == "torch"
    assert choice.computed_by(torch.bfloat16, torch.device("cuda")) == "torch"


# Slips in all kernels: instruction set (the best of the machine if none is named), file, what
# stands there, what stands there instead, what is found wrong.
SLIPS = [
    ("", "linear.h", "part->bias + panel * PANEL", "part->bias", "linear"),
    ("", "linear.h", "load_live(to, live) + rounded", "load_live(to, live) - rounded", "linear"),
    ("", "linear.h", "up = rounded(out[j + VECTORS / 2])", "up = rounded(out[j + 1])", "linear"),
    ("", "linear.h", "geglu(gate, up)", "swiglu(gate, up)", "linear"),
    ("avx512-bf16", "linear.h", "even[t][j] + odd[t][j]", "even[t][j] + even[t][j]", "linear"),
    ("avx2", "linear.h", "fill(values[1]), odd_of(both)",
     "fill(values[1]), even_of(both)", "linear"),
    ("avx2", "linear.h", "odd_of(pairs)}", "even_of(pairs)}", "linear"),
    ("avx2", "linear.c", "if (column == 0)", "if (column >= 0)", "linear"),
    ("avx512", "linear.c", "clamp(row, 0, all->count - STRIP_ROWS)",
     "clamp(row, 0, all->count)", "linear"),
    ("avx512-bf16", "linear.c", "weight + 2 * column,", "weight + column,", "linear"),
    ("avx512-bf16", "tiles.h", "_tile_loadd(7, row + 32,", "_tile_loadd(7, row,", "linear"),
    ("avx2", "multiply.h", "left + row * left_row + at", "left + row * left_row", "linear"),
    ("", "panels.c", "id % PANEL * 2", "id % PANEL", "embed"),
    ("", "panels.c", "(int)(at % BLOCK) + k", "k", "blocks"),
    ("", "blocks.h", "x[t].sum[2 * which] + x[t].sum[2 * which + 1]",
     "x[t].sum[2 * which]", "blocks"),
    ("avx2", "blocks.h", "codes >> 8 & 0x00FF00FF", "codes & 0x00FF00FF", "blocks"),
    ("avx512-bf16", "blocks.h", "numbers[1]));\n#else", "numbers[0]));\n#else", "blocks"),
    ("avx512-bf16", "blocks.h", "half * quads + quad);\n                floats value[4]",
     "quad);\n                floats value[4]", "blocks"),
    ("avx2", "blocks.h", ">> quad & 0x01010101", "& 0x01010101", "blocks"),
    ("avx2", "bytes.h", "most[row] > far[row]", "0", "blocks"),
    ("avx2", "bytes.h", "weights->below[half]", "weights->below[0]", "blocks"),
    ("avx2", "bytes.h", "weights->scale[half]", "weights->scale[0]", "blocks"),
    ("avx2", "bytes.h", "x->high, weights, high", "x->low, weights, high", "blocks"),
    ("avx2", "bytes.h", "return bits == 6 ? 2", "return bits == 6 ? 4", "blocks"),
    ("avx2", "linear.c", "row / STRIP_ROWS * columns", "0 * columns", "blocks"),
    ("avx512-bf16", "isa_avx512.h", "cvtne2ps_pbh(odd, even)", "cvtne2ps_pbh(even, odd)", "blocks"),
    ("", "repack.c", "fifth[at / 8] >> at % 8", "fifth[at / 8] >> 0", "blocks"),
    ("", "repack.c", "from[at - 4] >> 6 << 4", "from[at - 4] >> 6", "blocks"),
    ("", "repack.c", "(x[at] + minimum) * factor", "x[at] * factor", "quantized linear"),
    ("", "repack.c", "(uint8_t)(128 + (int)", "(uint8_t)(120 + (int)", "quantized linear"),
    ("avx2", "isa_avx2.h", "_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));\n    sum",
     "_mm256_castps256_ps128(x), _mm256_castps256_ps128(x));\n    sum", "norm"),
    ("", "pointwise.h", "/ (float)size + epsilon)", "/ (float)size + epsilon + 0.1f)", "norm"),
    ("", "pointwise.h", "load(sine + half + at)", "load(sine + at)", "rotate"),
    ("", "pointwise.c", "row * all->rotation_row", "0", "rotate"),
    ("", "attention.h", "range->farthest + 1 -", "range->farthest -", "attention"),
    ("avx512-bf16", "attention.c", "size, true, tile->weights", "size, false, tile->weights",
     "attention"),
    ("avx512", "attention.c", "at % STRIP == 0 && ", "", "attention"),
    ("avx2", "attention.c", "0.6931218f", "0.5f", "attention"),
    ("", "few_queries.c", "range->key_at + first", "range->key_at", "attention"),
    ("", "few_queries.c", "found[size] - peak)", "0)", "attention"),
    ("avx2", "vectors.h", "zip_low(a, b) + (floats)zip_high(a, b)",
     "zip_low(a, b) + (floats)zip_low(a, b)", "attention"),
    ("", "pointwise.h", "below) * cap", "below)", "attention"),
    ("", "likelihood.h", "all[place]", "all[0]", "likelihood"),
    ("", "likelihood.h", "to->sum *= shrink", "to->sum *= 1", "likelihood"),
    ("", "likelihood.h", "fill(-INFINITY)", "fill(9)", "likelihood"),
    ("", "likelihood.c", "spread + below *", "spread + 0 *", "likelihood"),
    ("", "likelihood.c", "sum += shrink * of[at].sum", "sum += of[at].sum", "likelihood"),
    ("", "step.c", "layer->norm_key, key_heads", "layer->norm_query, key_heads", "step"),
    ("", "step.c", "linear, ADD", "linear, STORE", "step"),
    ("", "step.c", "after && at", "0 && at", "step"),
]  # fmt: skip
OF_TILES = ("_tile_loadd(7, row + 32,", "weight + 2 * column,", "size, true, tile->weights")


@pytest.mark.slow
@needs_gcc
@pytest.mark.parametrize(("name", "file", "old", "new", "kernel"), SLIPS)
def test_a_slip_in_any_kernel_is_found(
    built_library: Path,
    slip_compiler: SlipCompiler,
    tmp_path: Path,
    name: str,
    file: str,
    old: str,
    new: str,
    kernel: str,
) -> None:
    able = {variant.name: variant for variant in variants.runnable()}
    variant = able.get(name) if name else variants.runnable()[0]
    if variant is None:
        pytest.skip(f"this processor cannot run the kernels for {name}")
    # What runs once need not be fast; at -O1 compiling takes five times as long.
    flags = ("-O0", *compiling.FLAGS[1:], *variant.flags)
    slip_compiler.build(Slip(file, old, new), tmp_path / "slip.so", ["gcc"], flags)
    library.use(tmp_path / "slip.so")
    if old in OF_TILES and not library.uses_tiles():
        pytest.skip("this processor has no matrix unit (AMX)")
    assert kernel in selfcheck.wrong_kernels()


def test_no_kernel_is_wrong(each_unit: Variant) -> None:
    assert selfcheck.wrong_kernels() == []
