"""``lmi passkey``: whether the model finds a number hidden in a long text."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import Panel, counts
from lmi_cli.cli.choices import memory_choice, method_choice, require_reading
from lmi_cli.cli.console import Output
from lmi_cli.cli.request import (
    MEMORY,
    MESSAGES,
    METHOD,
    MODEL,
    OUTPUT,
    REREADING,
    Request,
)
from lmi_cli.cli.session import Opened, Session
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmi_cli.tasks.passkey import Cell, PasskeyReport

GRID = Panel("Grid")
_BASES = {
    "whole": "the whole text",
    "passages": "passages that were read again",
    "memory": "the store",
    "window": "the window",
}


@dataclass(frozen=True, kw_only=True)
class PasskeyRequest(Request):
    """Options of ``lmi passkey``."""

    panels: ClassVar[tuple[str, ...]] = (MODEL, METHOD, MEMORY, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream", "strict", *REREADING)

    lengths: str = GRID("--lengths N,...", "Prompt lengths in tokens, as in 4k,16k.", "4k,8k")
    depths: str = GRID(
        "--depths X,...", "Positions of the key, in percent.", "0,25,50,75,100", envvar=False
    )
    trials: int = GRID("--trials N", "Number of prompts per length and depth.", 1)
    max_new_tokens: int = GRID("--max-new-tokens -n N", "Longest answer, in tokens.", 12)
    seed: int = GRID("--seed N", "Seed for the keys.", 0)


def command(request: PasskeyRequest) -> None:
    """Hide a number at several depths of texts of several lengths, and ask for it."""
    lengths, depths = counts(request.lengths), _percentages(request.depths)
    if not lengths or not depths or request.trials < 1 or request.max_new_tokens < 1:
        raise UsageError("the grid is empty: lengths, depths, --trials and -n start at 1")
    sink = Output(request.output)
    require_reading(request)
    choice, memory = method_choice(request), memory_choice(request)
    with Session(request) as session:
        opened = session.load()
        from lmi_cli.tasks.passkey import passkey

        def show(cell: "Cell") -> None:
            if request.verbose:
                session.say(f"{cell.length:,} tokens, key at {cell.depth:g} %: {_tally(cell)}")

        task = passkey(
            opened.loaded,
            lengths,
            depths,
            trials=request.trials,
            choice=choice,
            memory=memory,
            max_new_tokens=request.max_new_tokens,
            seed=request.seed,
            rank=request.rank,
            chunk=session.chunk(opened),
        )
        report = session.follow(task, "passkey", show)
    sink.write(_as_json(opened, report, request) if request.json else _as_table(report))
    sink.close()
    for length, used in report.methods.items():
        basis = _BASES[used.answered_from]
        session.say(f"{length:,} tokens read with {used.name}, answered from {basis}")
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s or 0.0
    session.say(f"read {report.read:,} tokens in {seconds:.1f} s ({speed:,.0f} tok/s)")


def _percentages(text: str) -> list[float]:
    try:
        values = [float(part.strip().rstrip("%")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--depths {text!r}: expected percentages, as in 0,50,100") from None
    if any(not 0 <= value <= 100 for value in values):
        raise UsageError(f"--depths {text!r}: expected percentages from 0 to 100")
    return values


def _tally(cell: "Cell") -> str:
    return f"{cell.correct}/{len(cell.trials)}"


def _as_table(report: "PasskeyReport") -> str:
    """A row for each depth, a column for each length, and correct answers of trials in the cells.

    If answers were based on more than the window, the last row shows the share that the window
    alone would have given.
    """
    lengths = list(dict.fromkeys(cell.length for cell in report.cells))
    depths = list(dict.fromkeys(cell.depth for cell in report.cells))
    cells = {(cell.length, cell.depth): cell for cell in report.cells}
    width = max(8, *(len(f"{length:,}") + 2 for length in lengths))
    rows = ["depth   " + "".join(f"{length:>{width},}" for length in lengths)]
    for depth in depths:
        tallies = (f"{_tally(cells[length, depth]):>{width}}" for length in lengths)
        rows.append(f"{depth:>5g} % " + "".join(tallies))
    columns = [[cells[length, depth] for depth in depths] for length in lengths]
    rows.append("all     " + "".join(f"{_share(column):>{width}}" for column in columns))
    alone = [_share(column, window=True) for column in columns]
    if any(alone):
        rows.append("window  " + "".join(f"{share:>{width}}" for share in alone))
    return "\n".join(rows) + "\n"


def _share(cells: "Sequence[Cell]", *, window: bool = False) -> str:
    """Correct answers in percent; empty if answers from the window alone were not generated."""
    shares = [cell.window_accuracy if window else cell.accuracy for cell in cells]
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known):.0%}" if len(known) == len(cells) else ""


def _as_json(opened: Opened, report: "PasskeyReport", request: Request) -> str:
    lm, methods = opened.loaded.lm, list(report.methods.values())
    sizes = lm.weights_bytes, report.cache_bytes, report.store_bytes, lm.device_peak_bytes()
    bounds = [method.bound_tokens for method in methods]
    return envelope.dump(
        "passkey",
        model=envelope.model_object(opened),
        method={
            "name": methods[0].name,
            "bound_tokens": None if None in bounds else max(b for b in bounds if b is not None),
            "by_length": [
                {
                    "length": length,
                    **method.parameters,
                    "bound_tokens": method.bound_tokens,
                    "form": method.form,
                    "answered_from": method.answered_from,
                }
                for length, method in report.methods.items()
            ],
        },
        sources=[],
        skipped=[],
        tokens=envelope.tokens_object(report.read, report.generated),
        sampling=envelope.sampling_object(request),
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(*sizes),
        cells=[
            {
                "length": cell.length,
                "depth": cell.depth,
                "trials": len(cell.trials),
                "accuracy": cell.accuracy,
                "window_accuracy": cell.window_accuracy,
                "answers": [asdict(trial) for trial in cell.trials],
            }
            for cell in report.cells
        ],
    )
