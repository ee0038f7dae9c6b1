"""``lmi bench``: how fast this machine reads and answers, and how near its limits."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from lmi_cli.cli import envelope
from lmi_cli.cli.console import Output
from lmi_cli.cli.options import (
    MethodOptions,
    ModelOptions,
    OutputOptions,
    counts,
    number,
    option,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import Opened, chunk_of, method_choice, open_model, say

if TYPE_CHECKING:
    from lmi_cli.tasks.bench import BenchReport, Speed

_BAR_COLUMNS = 24


def command(
    depths: Annotated[
        str,
        option(
            "--depths",
            metavar="N,...",
            help="Tokens to read before generating, as in 500,8k.",
            panel="Measurement",
        ),
    ] = "500,4k,16k",
    decode: Annotated[
        int, number("--decode", help="Tokens to generate at each depth.", panel="Measurement")
    ] = 32,
    against: Annotated[
        str,
        option(
            "--against",
            metavar="NAME",
            help="stock (transformers as it is), full (its attention by us) or none.",
            panel="Measurement",
        ),
    ] = "stock",
    *,
    model: ModelOptions,
    method: MethodOptions,
    output: OutputOptions,
) -> None:
    """Measure prefill, decode and memory, beside the stock model and the machine's limits."""
    lengths = counts(depths)
    sink = Output(output.output)
    choice = method_choice(method)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened = open_model(model, output, progress)
        from lmi_cli.tasks.bench import BenchReport, Speed, bench
        from lmi_cli.tasks.events import Progress

        report: BenchReport | None = None
        for event in bench(
            opened.loaded,
            choice,
            lengths,
            decode=decode,
            against=against,
            chunk=chunk_of(method, opened),
        ):
            match event:
                case Progress(tokens, total):
                    progress.show("measuring", tokens, total)
                case Speed():
                    progress.clear()
                    if output.verbose:
                        say(f"{event.runner} at {event.depth:,}: done", output)
                case BenchReport():
                    report = event
    if report is None:
        raise RuntimeError("the task ended without a report")
    sink.write(_as_json(opened, report) if output.json else _as_table(report))
    sink.close()
    say(
        f"this machine: {report.machine.gemm_flops / 1e9:,.0f} GFLOP/s in matrix products "
        f"({str(opened.loaded.lm.dtype).removeprefix('torch.')}), "
        f"{report.machine.read_bytes_per_s / 1e9:,.1f} GB/s from memory; "
        f"layers by {report.machine.layers_by}, attention by {report.machine.attention_by}",
        output,
    )


def _as_table(report: "BenchReport") -> str:
    """A row for each depth and runner, and how many times as fast ours is."""
    ours = report.rows[0].runner
    parameters = ", ".join(
        f"{name} {value:,}" for name, value in report.method.parameters().items()
    )
    lines = [
        f"{ours} ({parameters})" if parameters else ours,
        "",
        f"{'depth':>9}  {'':<12}{'prefill':>15}{'of limit':>10}{'decode':>14}{'of limit':>10}"
        f"{'cache':>12}{'peak':>12}",
    ]
    for depth in dict.fromkeys(row.depth for row in report.rows):
        rows = [row for row in report.rows if row.depth == depth]
        for place, row in enumerate(rows):
            lines.append(
                f"{f'{depth:,}' if not place else '':>9}  {row.runner:<12}"
                f"{row.prefill_tok_per_s:>9,.0f} tok/s{row.prefill_share:>10.0%}"
                f"{row.decode_tok_per_s:>8,.1f} tok/s{row.decode_share:>10.0%}"
                f"{_mebibytes(row.cache_bytes):>12}{_mebibytes(row.peak_bytes):>12}"
            )
        if len(rows) == 2:
            prefill, decode = _ratios(*rows)
            lines.append(f"{'':>9}  {'ratio':<12}{prefill:>14.1f}x{'':>10}{decode:>13.1f}x")
    lines += ["", "decode, tok/s"]
    fastest = max(row.decode_tok_per_s for row in report.rows)
    for row in report.rows:
        bar = "#" * max(1, round(row.decode_tok_per_s / fastest * _BAR_COLUMNS))
        lines.append(f"{row.depth:>9,}  {row.runner:<12}{bar} {row.decode_tok_per_s:,.1f}")
    return "\n".join(lines) + "\n"


def _ratios(ours: "Speed", theirs: "Speed") -> tuple[float, float]:
    return (
        ours.prefill_tok_per_s / theirs.prefill_tok_per_s,
        ours.decode_tok_per_s / theirs.decode_tok_per_s,
    )


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.0f} MiB"


def _as_json(opened: Opened, report: "BenchReport") -> str:
    return envelope.dump(
        "bench",
        model=envelope.model_object(opened),
        method={
            "name": report.method.name,
            **report.method.parameters(),
            "bound_tokens": report.bound_tokens,
        },
        sources=[],
        skipped=[],
        tokens=envelope.tokens_object(
            sum(row.depth for row in report.rows), report.decoded * len(report.rows)
        ),
        memory=envelope.memory_object(opened, max(row.cache_bytes for row in report.rows)),
        sampling=None,
        timing=envelope.timing_object(opened, report.timing),
        machine=asdict(report.machine),
        rows=[asdict(row) for row in report.rows],
    )
