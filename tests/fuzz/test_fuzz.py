"""A short run over every target; the counts of a long one (``run.py``) are in docs/reliability.md.

Whatever comes out of a sound file by a few edits is read, or refused with an error of ours, in
seconds and little memory.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmi_cli import memory

from .edits import COMMON, KINDS, Edit, damaged
from .limits import MEMORY_BYTES, within_seconds
from .targets import TARGETS, check

# PDF files are read by a process each, and transformers takes a while with each configuration.
EXAMPLES = {"PDF": 12, "output of the PDF worker": 12, "configuration in use": 12}


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read(name: str, tmp_path: Path, cache: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds(tmp_path):
        assert check(target, seed, tmp_path) == "read"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, tmp_path: Path, cache: Path) -> None:
    target = TARGETS[name]
    seeds = target.seeds(tmp_path)
    for seed in seeds:  # what is imported now does not count as memory taken later
        check(target, seed, tmp_path)
    edits = st.builds(
        Edit,
        st.sampled_from(KINDS),
        st.integers(0, 2**16 - 1),
        st.sampled_from((1, 2, 4, 8, 40, 300, 5000)),
        st.sampled_from((*COMMON, *target.words)) | st.binary(max_size=8),
    )

    @settings(
        max_examples=EXAMPLES.get(name, 150),
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds), st.lists(edits, min_size=1, max_size=6))
    def run(seed: bytes, changes: list[Edit]) -> None:
        with within_seconds(10):
            check(target, damaged(seed, changes), tmp_path)

    can_measure = memory.forget_peak_rss()
    before = memory.peak_rss_bytes()
    run()
    assert not can_measure or memory.peak_rss_bytes() - before < MEMORY_BYTES
