"""``lmi bench``: how fast this machine reads and answers, and how close that is to its limits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import Panel, counts
from lmi_cli.cli.choices import method_choice
from lmi_cli.cli.console import Output, mebibytes, require_writable
from lmi_cli.cli.dry_run import method_text
from lmi_cli.cli.request import MESSAGES, METHOD, MODEL, OUTPUT, Request
from lmi_cli.cli.rows import csv_option, jsonl_option, write_row_files
from lmi_cli.cli.session import Opened, Session
from lmi_cli.methods.base import named_parameters

if TYPE_CHECKING:
    from lmi_cli.tasks.bench import BenchReport, Computed, Machine, Speed

_BAR_COLUMNS = 24
MEASUREMENT = Panel("Measurement")


@dataclass(frozen=True, kw_only=True)
class BenchRequest(Request):
    """Options of ``lmi bench``."""

    panels: ClassVar[tuple[str, ...]] = (MODEL, METHOD, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream", "strict")

    depths: str = MEASUREMENT(
        "--depths N,...", "Numbers of tokens to read, as in 500,8k.", "500,4k,16k", envvar=False
    )
    decode: int = MEASUREMENT("--decode N", "Tokens to generate at each depth.", 32)
    against: str = MEASUREMENT(
        "--against NAME", "What to compare with: stock, full or none.", "stock"
    )
    csv: Path | None = csv_option(MEASUREMENT, "a row for each depth and runner")
    jsonl: Path | None = jsonl_option(MEASUREMENT, "a row for each depth and runner")


def command(request: BenchRequest) -> None:
    """Measure prefill, decode and memory, and compare with the stock model and machine limits."""
    depths = counts(request.depths)
    sink = Output(request.output)
    require_writable(request.output, request.csv, request.jsonl)
    choice = method_choice(request)
    with Session(request) as session:
        opened = session.load()
        from lmi_cli.tasks.bench import bench

        def show(speed: "Speed") -> None:
            if request.verbose:
                session.say(f"{speed.runner} at {speed.depth:,} tokens: done")

        report = session.follow(
            bench(
                opened.loaded,
                choice,
                depths,
                decode=request.decode,
                against=request.against,
                chunk=session.chunk(opened),
            ),
            "measuring",
            show,
        )
    sink.write(_as_json(opened, report) if request.json else _as_table(report))
    sink.close()
    write_row_files(request.csv, request.jsonl, [asdict(row) for row in report.rows])
    machine = report.machine
    session.say(
        f"this machine: {machine.gemm_flops / 1e9:,.0f} GFLOP/s in matrix products "
        f"({opened.loaded.lm.dtype_name}), {machine.read_bytes_per_s / 1e9:,.1f} GB/s from memory; "
        f"layers by {machine.layers_by}, attention by {machine.attention_by}"
    )


def _as_table(report: "BenchReport") -> str:
    """A row for each depth and runner, and how many times faster ours is."""
    lines = [
        method_text(named_parameters(report.method)),
        "",
        f"{'depth':>9}  {'':<12}{'prefill':>15}{'of limit':>10}{'decode':>14}{'of limit':>10}"
        f"{'cache':>12}{'peak':>12}",
    ]
    for depth in dict.fromkeys(row.depth for row in report.rows):
        rows = [row for row in report.rows if row.depth == depth]
        for place, row in enumerate(rows):
            peak = "-" if row.peak_bytes is None else mebibytes(row.peak_bytes)
            lines.append(
                f"{f'{depth:,}' if not place else '':>9}  {row.runner:<12}"
                f"{row.prefill_tok_per_s:>9,.0f} tok/s{row.prefill_share:>10.0%}"
                f"{row.decode_tok_per_s:>8,.1f} tok/s{row.decode_share:>10.0%}"
                f"{mebibytes(row.cache_bytes):>12}{peak:>12}"
            )
        if len(rows) == 2:
            ours, theirs = rows
            prefill = ours.prefill_tok_per_s / theirs.prefill_tok_per_s
            decode = ours.decode_tok_per_s / theirs.decode_tok_per_s
            lines.append(f"{'':>9}  {'ratio':<12}{prefill:>14.1f}x{'':>10}{decode:>13.1f}x")
    lines += ["", "decode, tok/s"]
    fastest = max(row.decode_tok_per_s for row in report.rows)
    for row in report.rows:
        bar = "#" * max(1, round(row.decode_tok_per_s / fastest * _BAR_COLUMNS))
        lines.append(f"{row.depth:>9,}  {row.runner:<12}{bar} {row.decode_tok_per_s:,.1f}")
    lines += ["", f"computed by, with {report.method.name}"]
    for name, computed in (("prefill", report.prefill), ("decode", report.decode)):
        lines += _computed_lines(name, computed, report.machine)
    return "\n".join(lines) + "\n"


def _computed_lines(name: str, computed: "Computed", machine: "Machine") -> list[str]:
    """A line for each way in which passes went through the layers."""
    ways = []
    if computed.one_call:
        ways.append((computed.one_call, "all layers in one call of the library in C (lmi_step)"))
    for reason, count in computed.layer_by_layer.items():
        ways.append((count, f"layer by layer by {machine.layers_by}, since {reason}"))
    lines = [f"{count:,} of {computed.passes:,} passes: {way}" for count, way in ways]
    if computed.layer_by_layer:
        layers = sum(computed.attention.values())
        by = ", ".join(f"{by} ({n / layers:.0%})" for by, n in computed.attention.items())
        lines.append(f"there, linear layers: {machine.linear_by}; attention: {by}")
    return [f"{name if not at else '':>9}  {line}" for at, line in enumerate(lines)]


def _as_json(opened: Opened, report: "BenchReport") -> str:
    lm, cache = opened.loaded.lm, max(row.cache_bytes for row in report.rows)
    return envelope.dump(
        "bench",
        model=envelope.model_object(opened),
        method=named_parameters(report.method) | {"bound_tokens": report.bound_tokens},
        sources=[],
        skipped=[],
        tokens=envelope.tokens_object(
            sum(row.depth for row in report.rows), report.decoded * len(report.rows)
        ),
        memory=envelope.memory_object(lm.weights_bytes, cache, 0, lm.device_peak_bytes()),
        sampling=None,
        timing=envelope.timing_object(opened, report.timing),
        machine=asdict(report.machine),
        computed={"prefill": asdict(report.prefill), "decode": asdict(report.decode)},
        rows=[asdict(row) for row in report.rows],
    )
