"""How fast losses are computed, against reading alone.

    python docs/compare_scoring.py TEXT.txt [--tokens N] [--window N] [--pairs N] [--threads N]
                                   [--method NAME] [--dtype DTYPE] [--quantize HOW]

The first tokens of a text are read, as ``lmi bench`` reads, and scored, as ``lmi perplexity``
scores, in turn. Printed are tokens per second of processor time, which other programs disturb less
than the clock, and the ratio of the two in each pair; the last row has the medians.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import CHUNK
from lmi_cli.engine.engine import Engine
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import load
from lmi_cli.models.placement import Placement
from lmi_cli.native import choice
from lmi_cli.tasks.plan import plan_scoring
from lmi_cli.tasks.reading import engine_of


def main() -> None:
    """Print a row for each pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    for name, default in (("tokens", 4096), ("window", 2048), ("pairs", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, usual in (("method", "lm-infinite"), ("dtype", "auto"), ("quantize", "auto")):
        parser.add_argument(f"--{name}", default=usual)
    asked = parser.parse_args()
    placement = Placement(
        dtype=asked.dtype, device="cpu", quantize=asked.quantize, threads=asked.threads
    )
    model = load(resolve(None), placement)
    ids = np.array(model.tokenizer.encode(asked.text.read_text()).ids[: asked.tokens], np.int32)
    method = MethodChoice(asked.method, {"window": asked.window})
    plan = plan_scoring(model.known, method, len(ids), CHUNK)

    def speed(use: Callable[[Engine], object]) -> float:
        engine, started = engine_of(model, plan), time.process_time()
        use(engine)
        return len(ids) / (time.process_time() - started)

    def read() -> float:
        return speed(lambda engine: [each.tokens for each in engine.read(engine.start(), [ids])])

    def score() -> float:
        return speed(lambda engine: list(engine.score(engine.start(), [ids])))

    by = choice.computed_by(model.lm.dtype, model.lm.device)
    sys.stdout.write(f"{model.lm.dtype_name}, {model.lm.quantize}, {by}: read, scored, ratio\n")
    read(), score()
    rows = []
    for turn in range(asked.pairs):
        if turn % 2:
            scored, plain = score(), read()
        else:
            plain, scored = read(), score()
        rows.append((plain, scored, scored / plain))
        sys.stdout.write("{:8,.0f} {:8,.0f} {:8.3f}\n".format(*rows[-1]))
    medians = (statistics.median(column) for column in zip(*rows, strict=True))
    sys.stdout.write("{:8,.0f} {:8,.0f} {:8.3f}\n".format(*medians))


if __name__ == "__main__":
    main()
