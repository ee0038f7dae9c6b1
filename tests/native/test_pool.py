"""The pool of threads: each piece once, whoever is asleep or late."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lmi_cli.native import compiling

SOURCES = (Path(__file__).with_name("pool_race.c"), compiling.FOLDER / "pool.c")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
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
