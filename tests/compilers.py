"""Whether there is a compiler for the tests that compile something."""

import os
import shutil
import subprocess
from functools import cache

import pytest


@cache
def missing(compiler: str = "gcc") -> str | None:
    """Why nothing can be compiled by this compiler; None if it works."""
    if shutil.which(compiler) is None:
        return f"{compiler} is not installed"
    done = subprocess.run(
        [compiler, "-x", "c", "-", "-o", os.devnull],
        input=b"int main(void) { return 0; }",
        capture_output=True,
        timeout=60,
        check=False,
    )
    return f"{compiler} cannot compile an empty program" if done.returncode else None


needs_gcc = pytest.mark.skipif(missing() is not None, reason=f"needs gcc: {missing()}")
