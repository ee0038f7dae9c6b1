"""A long run: ``python -m tests.fuzz.run COUNT [SEED [TARGET...]]`` from the top folder.

Prints, for each target, how many inputs were read, how many were refused with which error, the
slowest one and the memory taken. An input that fails is written to a file, and the run goes on;
the exit status says whether there was one.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lmi_cli import memory

from .edits import COMMON, damaged, draw
from .limits import within_seconds
from .targets import TARGETS, Target, check


def run(target: Target, count: int, seed: int, folder: Path) -> bool:
    """Fuzz one target; return whether nothing failed."""
    seeds, words = target.seeds(folder), (*COMMON, *target.words)
    for sound in seeds:
        check(target, sound, folder)
    memory.forget_peak_rss()
    before, slowest, sound_run = memory.peak_rss_bytes(), 0.0, True
    outcomes: Counter[str] = Counter()
    for number in range(count):
        source = random.Random(f"{target.name} {seed} {number}")
        data = damaged(source.choice(seeds), draw(source, words))
        started = time.monotonic()
        try:
            with within_seconds(20):
                outcomes[check(target, data, folder)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # such as a panic of a library in Rust
            sound_run = False
            outcomes["FAILED"] += 1
            path = Path(tempfile.gettempdir()) / f"fuzz-{target.name.replace(' ', '-')}-{number}"
            path.write_bytes(data)
            sys.stdout.write(f"{path}: {type(error).__name__}: {str(error)[:200]}\n")
        slowest = max(slowest, time.monotonic() - started)
    grown = (memory.peak_rss_bytes() - before) / 2**20
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items()))
    sys.stdout.write(
        f"| {target.name} | {count:,} | {counts} | {slowest:.2f} s | {grown:.0f} MiB |\n"
    )
    sys.stdout.flush()
    return sound_run


def main() -> int:
    """Divide the inputs among the targets by their shares."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    chosen = [TARGETS[name] for name in sys.argv[3:]] or list(TARGETS.values())
    total = sum(target.share for target in chosen)
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LMI_CACHE_DIR"] = folder
        for target in chosen:
            sound &= run(target, round(count * target.share / total), seed, Path(folder))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
