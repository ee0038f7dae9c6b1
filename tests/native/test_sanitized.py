"""The tests of the kernels once more, with every access to memory checked.

They run with the library for the best instruction set of this machine, and with the one for the
oldest, whose vectors are half as long. AddressSanitizer finds accesses beyond what torch allocated,
because it replaces the allocator of the whole process; UndefinedBehaviorSanitizer finds shifts,
overflows and misaligned accesses.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compilers import needs_gcc

from lmi_cli.native import compiling, variants
from lmi_cli.native.variants import Variant

pytestmark = [pytest.mark.slow, needs_gcc]
TESTS = Path(__file__).parents[1]
SANITIZED = (
    "native/test_linear.py",
    "native/test_blocks.py",
    "native/test_quantized.py",
    "native/test_likelihood.py",
    "native/test_attention.py",
    "native/test_pointwise.py",
    "native/test_bindings.py",
    "native/test_choice.py",
    "models/test_decoder.py",
    "cli/test_hostile_models.py",
)
# One that writes an element more than there is, as a wrong shape would have it.
OVERFLOW = """
import torch
from lmi_cli.native import library
library.use({path!r})
x, weight = torch.zeros(4, 64).bfloat16(), torch.zeros(64)
out = torch.empty(4, 64).bfloat16()
library.opened().lmi_norm(x.data_ptr(), weight.data_ptr(), 1e-5, 1, 5, 64, out.data_ptr())
"""


RUNNABLE = variants.runnable()


@pytest.fixture(
    scope="module",
    params=list(dict.fromkeys((*RUNNABLE[:1], *RUNNABLE[-1:]))),
    ids=lambda variant: variant.name,
)
def sanitized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library compiled with the sanitizers, alone in its folder."""
    variant: Variant = request.param
    folder = tmp_path_factory.mktemp("sanitized")
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert compiling.compile_libraries(folder, [variant], (*flags, *compiling.FLAGS[1:])) == {}
    return folder / variant.file


def python(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    runtime = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    environment |= {
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little of what it holds when it ends
        "LMI_TEST_KERNELS": str(library.parent),
        "LMI_ISA": library.stem.removeprefix("kernels-"),
        "OMP_NUM_THREADS": "2",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_nothing_is_read_or_written_out_of_bounds(sanitized: Path) -> None:
    paths = [str(TESTS / name) for name in SANITIZED]
    # Slips in the kernels are compiled without sanitizers, which also take memory of their own.
    # What compares whole models with transformers takes long, and touches no other memory.
    chosen = "not slip and not allocated and not as_near_to_the_truth and not of_transformers"
    options = ("-n", "0", "-q", "-rfE", "-p", "no:cacheprovider", "-k", chosen)
    done = python(sanitized, "-m", "pytest", *options, *paths)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_an_access_out_of_bounds_is_found(sanitized: Path) -> None:
    done = python(sanitized, "-c", OVERFLOW.format(path=str(sanitized)))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "norm" in done.stderr
