"""The pool of threads: each piece once, whoever is asleep or late."""

import subprocess
from pathlib import Path

import pytest
import torch
from compilers import needs_gcc
from torch import Tensor

from lmi_cli.attention.ranges import KeyRange
from lmi_cli.native import attention, compiling, library, pointwise
from lmi_cli.native.linear import PackedLinear
from lmi_cli.native.variants import Variant

SOURCES = (Path(__file__).with_name("pool_race.c"), compiling.FOLDER / "pool.c")


@needs_gcc
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_no_piece_is_lost_or_computed_twice(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "race"
    flags = ("-O1", "-g", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    subprocess.run(
        ["gcc", *flags, f"-I{compiling.FOLDER}", *map(str, SOURCES), "-o", str(program)], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    by_caller, by_others = map(int, done.stdout.split())
    assert by_caller > 0
    assert by_others > 0


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_computes_the_same(each_unit: Variant, threads: int) -> None:
    """To the last bit, since no sum is cut by the number of threads."""

    def results(count: int) -> list[Tensor]:
        library.opened().lmi_threads(count)
        torch.manual_seed(1)
        found = []
        for size, rows in ((64, 1), (128, 1), (192, 130), (256, 30)):
            query, key, value = (
                torch.randn(1, heads, n, size).bfloat16()
                for heads, n in ((6, rows), (2, 900), (2, 900))
            )
            keys = KeyRange(query / 8, key, value, 0, 0, 700)
            found += attention.attend([keys], query_start=900, with_lse=True)
            linear = PackedLinear.join([torch.randn(300, size).bfloat16()])
            x = torch.randn(rows, size).bfloat16()
            found += [linear(x), linear.wide(x)]
            found += [linear.quantized(bits)(x) for bits in (4, 8)]
            found.append(pointwise.norm(query, value[0, 0, 0].float(), 1e-5))
        return [tensor for tensor in found if tensor is not None]

    try:
        assert all(map(torch.equal, results(1), results(threads)))
    finally:
        library.opened().lmi_threads(torch.get_num_threads())
