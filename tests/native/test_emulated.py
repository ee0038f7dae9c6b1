"""Every kernel compared with plain code by a program in C, also for another kind of processor.

The kernels for ARM are compiled for that and run in an emulator, the others on this processor.
"""

import shutil
import subprocess
from pathlib import Path

import compilers
import pytest
from slips import Slip, SlipCompiler

from lmi_cli.native import compiling, cpu, variants
from lmi_cli.native.variants import Variant

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("emulated.c")
VARIANTS = {variant.name: variant for variant in variants.VARIANTS}
EMULATED = "emulated neon"
CROSS_COMPILER, EMULATOR = ("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64",)
FLAGS = tuple(flag for flag in compiling.FLAGS if flag not in ("-fPIC", "-shared"))
TILES = {"amx_tile", "amx_bf16"}
NOT_ALLOWED = 3

# One slip: where it is compiled, file, what stands there, what stands there instead, and a kernel
# that is wrong then. By default, it is compiled for this processor.
SLIPS = [
    (EMULATED, "isa_neon.h", "vmull_high_s16(left, right)", "vmull_high_s16(left, left)",
     "linear Q4_0"),
    (EMULATED, "isa_neon.h", "ZIP_HIGH 2, 6, 3, 7", "ZIP_HIGH 3, 7, 2, 6", "linear bfloat16"),
    (EMULATED, "isa_neon.h", "vaddvq_f32(x)", "vmaxvq_f32(x)", "norm"),
    (EMULATED, "isa_neon.h", "vmaxvq_f32(x)", "vminvq_f32(x)", "linear Q5_0"),
    (EMULATED, "isa_neon.h", "(mask)) != 0", "(mask)) == 0", "attention of 29 packed"),
    (EMULATED, "isa_neon.h", "vmaxq_f32(a, b)", "a", "linear Q8_0"),
    (EMULATED, "isa_neon.h", "vcvt_f16_f32(vdupq_n_f32(x))", "vcvt_f16_f32(vdupq_n_f32(x / 2))",
     "quantize 8"),
    ("", "linear.c", "all->out + (row + t) * all->out_row",
     "all->out + (row + t) / 2 * all->out_row", "linear Q4_1"),
    ("", "linear.h", "part->rows / 2 - first", "64", "linear bfloat16 swiglu"),
    ("", "panels.c", "[scale]) : 0.0f", "[scale]) / 2 : 0.0f", "embed Q4_K"),
    ("", "blocks.h", "offset * sum", "(offset + 1) * sum", "linear Q6_K"),
    ("", "repack.c", "from[at] >> 6 << 4;\n    to", "from[at] >> 6;\n    to", "linear Q5_K"),
    ("", "repack.c", "/ spread;\n            minimum", "/ spread * 1.1f;\n            minimum",
     "quantize 4"),
    ("", "pointwise.h", "widened(x + at) * factor;", "widened(x + at);", "norm"),
    ("", "pointwise.h", "sigmoid(2.0f * z)", "sigmoid(1.9f * z)", "linear Q8_0 geglu"),
    ("", "pointwise.h", "(-2 / cap)", "(-1 / cap)", "attention of 1 unpacked"),
    ("", "pointwise.c", "head * all->x_head", "0", "rotate"),
    ("", "attention.c", "tile->sum[row] * tile->shrink[row]", "tile->sum[row]",
     "attention of 29 packed"),
    ("", "attention.c", "range->query_at[start + row]", "range->query_at[row]",
     "attention of 29 packed at 341, 64, falling"),
    ("", "attention.h", "range->nearest -", "range->nearest + 1 -", "attention of 1 unpacked"),
    ("", "few_queries.c", "head < heads; head++) {\n            const floats w",
     "head < 2; head++) {\n            const floats w", "attention of 1 unpacked"),
    ("", "few_queries.c", "row * range->query_row", "0", "attention of 8 unpacked"),
    ("", "linear.c", "clamp((group + 1) * GROUP, 0, panels)", "clamp((group + 1) * GROUP, 0, 17)",
     "likelihood of 33"),
    ("", "step.c", "seen->rotation, row, 1.0f", "seen->queries[0], row, 1.0f", "step"),
    ("", "step.c", "* shape->residual_scale", "", "step, changed"),
    ("", "step.c", "? all : shape->size", "? shape->size : all", "step, changed"),
]  # fmt: skip


def commands(name: str) -> tuple[Variant, tuple[str, ...], tuple[str, ...]]:
    """A variant, what compiles for it and what runs it; skips the test where that is missing."""
    if name == EMULATED:
        found = VARIANTS["neon"], CROSS_COMPILER, EMULATOR
    else:
        able = {variant.name: variant for variant in variants.runnable()}
        if not able:
            pytest.skip("there are no kernels for this processor")
        if name and name not in able:
            missing = ", ".join(sorted(VARIANTS[name].features - cpu.features()))
            pytest.skip(f"this processor cannot run the kernels for {name}: it has no {missing}")
        found = able[name] if name else variants.runnable()[0], ("gcc",), ()
    if (reason := compilers.missing(found[1][0])) is not None:
        pytest.skip(reason)
    for program in found[2]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    return found


def run(name: str, program: Path, *, tiles: bool = False) -> tuple[int, list[str]]:
    """Compile and run the program; return its exit status and what it says of each check."""
    variant, compiler, emulator = commands(name)
    flags = (*FLAGS, *variant.flags, f"-I{compiling.FOLDER}")
    files = map(str, (PROGRAM, *compiling.SOURCES))
    subprocess.run([*compiler, *flags, *files, "-o", str(program), "-lm"], check=True, timeout=300)
    return checked(emulator, program, *(["tiles"] if tiles else []))


def checked(emulator: tuple[str, ...], *program: Path | str) -> tuple[int, list[str]]:
    """Run a program; return its exit status and what it says of each check."""
    done = subprocess.run(
        [*emulator, *map(str, program)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    "name", [EMULATED, *(variant.name for variant in variants.compilable()), "avx512-bf16 tiles"]
)
def test_each_kernel_computes_what_plain_code_does(name: str, tmp_path: Path) -> None:
    variant, tiles = name.removesuffix(" tiles"), name.endswith(" tiles")
    if tiles and not cpu.features() >= TILES:
        pytest.skip("this processor has no matrix unit (AMX)")
    status, said = run(variant, tmp_path / "program", tiles=tiles)
    if status == NOT_ALLOWED:
        pytest.skip("the system does not allow the matrix unit (AMX)")
    assert [line for line in said if not line.startswith("ok ")] == []
    assert (status, len(said)) == (0, 116)


@pytest.mark.parametrize(("name", "file", "old", "new", "kernel"), SLIPS)
def test_a_slip_in_any_kernel_is_found(
    slip_compiler: SlipCompiler,
    name: str,
    file: str,
    old: str,
    new: str,
    kernel: str,
    tmp_path: Path,
) -> None:
    variant, compiler, emulator = commands(name)
    # What runs once need not be fast; at -O1 compiling takes five times as long.
    flags = (*FLAGS, *variant.flags, "-O0")
    slip_compiler.build(Slip(file, old, new), tmp_path / "program", compiler, flags, [PROGRAM])
    status, said = checked(emulator, tmp_path / "program")
    assert status == 1
    assert any(line.startswith(f"WRONG {kernel}") for line in said), said
