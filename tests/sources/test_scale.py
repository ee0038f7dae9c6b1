"""Large trees and long PDF files are read in little memory and with few files open."""

import subprocess
import sys
from pathlib import Path

import pytest

from .documents import make_pdf
from .folders import fill

# Prints the number of blocks, how many more files were open at one time than at another, and the
# peak memory in KiB.
PROGRAM = """
import sys
from pathlib import Path
from lmi_cli.sources import open_corpus

files = set()
for number, block in enumerate(open_corpus([sys.argv[1]]).blocks):
    if number % 500 == 0:
        files.add(len(list(Path("/proc/self/fd").iterdir())))
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(number + 1, max(files) - min(files), peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
@pytest.mark.parametrize("kind", ["tree", "pdf"])
def test_many_files_and_many_pages_take_little_memory(tmp_path: Path, kind: str) -> None:
    if kind == "tree":
        count = 30_000
        fill(tmp_path, {f"d{n // 150}/{n}.txt": f"file {n}\n" * 5 for n in range(count)})
    else:
        count = 3_000
        pages = [[f"Page {number}. The grass is green."] * 30 for number in range(count)]
        (tmp_path / "a.pdf").write_bytes(make_pdf(pages))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    blocks, more_files, peak_kib = map(int, done.stdout.split())
    assert blocks >= count
    assert more_files <= 2
    assert peak_kib < 100_000
