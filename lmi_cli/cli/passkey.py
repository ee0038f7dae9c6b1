"""``lmi passkey``: can the model find a number hidden in a long text?"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from lmi_cli.cli import envelope
from lmi_cli.cli.console import Output
from lmi_cli.cli.options import (
    GenerationOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    counts,
    number,
    option,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import Opened, chunk_of, memory_choice, method_choice, open_model, say
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmi_cli.tasks.passkey import Cell, PasskeyReport


def command(
    lengths: Annotated[
        str,
        option(
            "--lengths",
            metavar="N,...",
            help="Prompt lengths in tokens, as in 4k,16k.",
            panel="Grid",
        ),
    ] = "4k,8k",
    depths: Annotated[
        str,
        option(
            "--depths",
            metavar="X,...",
            help="Places of the key in percent of the text.",
            panel="Grid",
        ),
    ] = "0,25,50,75,100",
    trials: Annotated[int, number("--trials", help="Trials a cell.", panel="Grid")] = 1,
    max_new_tokens: Annotated[
        int, number("--max-new-tokens", "-n", help="Longest answer, in tokens.", panel="Grid")
    ] = 12,
    seed: Annotated[int, number("--seed", help="Of the keys.", panel="Grid")] = 0,
    *,
    model: ModelOptions,
    method: MethodOptions,
    memory: MemoryOptions,
    output: OutputOptions,
) -> None:
    """Hide a number at several depths of texts of several lengths, and ask for it."""
    grid_lengths, grid_depths = counts(lengths), _percentages(depths)
    if not grid_lengths or not grid_depths or trials < 1 or max_new_tokens < 1:
        raise UsageError("the grid is empty: lengths, depths, trials and -n need at least one")
    sink = Output(output.output)
    choice, remembered = method_choice(method), memory_choice(memory)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened = open_model(model, output, progress)
        from lmi_cli.tasks.events import Note, Progress
        from lmi_cli.tasks.passkey import Cell, PasskeyReport, passkey

        report: PasskeyReport | None = None
        for event in passkey(
            opened.loaded,
            grid_lengths,
            grid_depths,
            trials=trials,
            choice=choice,
            memory=remembered,
            max_new_tokens=max_new_tokens,
            seed=seed,
            chunk=chunk_of(method, opened),
        ):
            match event:
                case Progress(tokens, total):
                    progress.show("passkey", tokens, total)
                case Note(text):
                    progress.clear()
                    say(text, output)
                case Cell():
                    progress.clear()
                    if output.verbose:
                        say(f"{event.length:,} at {event.depth:g} %: {_tally(event)}", output)
                case PasskeyReport():
                    report = event
    if report is None:
        raise RuntimeError("the task ended without a report")
    if output.json:
        sink.write(_as_json(opened, report, max_new_tokens, seed))
    else:
        sink.write(_as_table(report))
    sink.close()
    for length, used in report.methods.items():
        say(f"{length:,} tokens by {used.name}, answered from: {used.answered_from}", output)
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s or 0.0
    say(f"read {report.read:,} tokens in {seconds:.1f} s ({speed:,.0f} tok/s)", output)


def _percentages(text: str) -> list[float]:
    try:
        values = [float(part.strip().rstrip("%")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"depths {text!r}: expected percentages, as in 0,50,100") from None
    if any(not 0 <= value <= 100 for value in values):
        raise UsageError(f"depths {text!r}: each is a percentage from 0 to 100")
    return values


def _tally(cell: "Cell") -> str:
    return f"{cell.correct}/{len(cell.trials)}"


def _as_table(report: "PasskeyReport") -> str:
    """Depths down, lengths across, right answers of trials in the cells.

    The last row, where answers came from the memory, says what the window alone would have given.
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
    """Right answers in percent; empty where the window alone was not asked."""
    right = [cell.window_correct if window else cell.correct for cell in cells]
    known = [count for count in right if count is not None]
    if len(known) < len(right):
        return ""
    return f"{sum(known) / sum(len(cell.trials) for cell in cells):.0%}"


def _as_json(opened: Opened, report: "PasskeyReport", max_new_tokens: int, seed: int) -> str:
    methods = list(report.methods.values())
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
                    "answered_from": method.answered_from,
                }
                for length, method in report.methods.items()
            ],
        },
        sources=[],
        skipped=[],
        tokens=envelope.tokens_object(report.read, report.generated),
        sampling=envelope.sampling_object(GenerationOptions(max_new_tokens, seed=seed)),
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(opened, report.cache_bytes, report.store_bytes),
        cells=[
            {
                "length": cell.length,
                "depth": cell.depth,
                "trials": len(cell.trials),
                "accuracy": cell.accuracy,
                "window_accuracy": None
                if cell.window_correct is None
                else cell.window_correct / len(cell.trials),
                "answers": [asdict(trial) for trial in cell.trials],
            }
            for cell in report.cells
        ],
    )
