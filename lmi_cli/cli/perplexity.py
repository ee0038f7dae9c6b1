"""``lmi perplexity``: how well a model predicts a text."""

import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmi_cli.cli import envelope, summary
from lmi_cli.cli.console import Output, require_writable, write_file
from lmi_cli.cli.inspect import dry_run
from lmi_cli.cli.options import (
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
    number,
    option,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import (
    Opened,
    chunk_of,
    method_choice,
    open_model,
    open_sources,
    piped_source,
    require_whole_input,
    say,
)
from lmi_cli.errors import PartialError, UsageError
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.tasks.perplexity import PerplexityReport


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files, folders, or - for stdin."),
    ] = None,
    length: Annotated[
        int | None,
        number("--length", help="Score the first N tokens.", panel="Scoring"),
    ] = None,
    nll_out: Annotated[
        Path | None,
        option(
            "--nll-out",
            metavar="FILE",
            help="Write each token's loss: float32 .npy, nan where not scored.",
            panel="Scoring",
        ),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    output: OutputOptions,
) -> None:
    """Score documents in one pass: perplexity, bits per byte, and the curve by position."""
    if length is not None and length < 2:
        raise UsageError(f"length {length}: at least 2 tokens are needed to score one")
    if source.dry_run:
        dry_run(
            "perplexity",
            arguments or [piped_source()],
            source=source,
            model=model,
            method=method,
            output=output,
            answer=None,
        )
        return
    corpus = open_sources(arguments or [piped_source()], source)
    sink = Output(output.output)
    if nll_out is not None:
        require_writable(nll_out)
    choice = method_choice(method)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened = open_model(model, output, progress)
        from lmi_cli.tasks.events import Note, Progress
        from lmi_cli.tasks.perplexity import PerplexityReport, perplexity

        report: PerplexityReport | None = None
        for event in perplexity(
            opened.loaded,
            corpus,
            choice,
            length=length,
            keep_nll=nll_out is not None,
            chunk=chunk_of(method, opened),
        ):
            match event:
                case Progress(tokens, total):
                    progress.show("scoring", tokens, total)
                case Note(text):
                    progress.clear()
                    say(text, output)
                case PerplexityReport():
                    report = event
        progress.clear()
    if report is None:
        raise RuntimeError("the task ended without a report")
    require_whole_input(corpus, output)
    if report.short:
        text = f"the text has {report.reading.document_tokens:,} tokens, fewer than {length:,}"
        if output.strict:
            raise PartialError(text)
        say(f"warning: {text}; all of it is scored", output)
    if nll_out is not None and report.nll is not None:
        write_file(nll_out, _npy(report.nll))
    sink.write(_as_json(opened, report) if output.json else _as_text(report))
    sink.close()
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s or 0.0
    peak = peak_rss_bytes() / 2**20
    say(f"scored in {seconds:.1f} s ({speed:,.0f} tok/s), peak memory {peak:,.0f} MiB", output)
    for line in summary.input_lines(report.reading):
        say(line, output)


def _npy(values: Any) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _as_text(report: "PerplexityReport") -> str:
    score = report.score
    lines = [f"{'position':>19}  {'nats/token':>10}  {'tokens':>7}"]
    for bucket in score.curve:
        last = min(bucket.end, report.reading.document_tokens) - 1
        lines.append(f"{bucket.start:>9,}-{last:<9,}  {bucket.nll:>10.4f}  {bucket.tokens:>7,}")
    error = "" if score.ppl_se is None else f" ± {score.ppl_se:.4f} (tokens as independent)"
    lines += [
        f"perplexity    {score.ppl:.4f}{error}",
        f"nats/token    {score.nll:.4f}",
        f"bits/byte     {score.bits_per_byte:.4f}",
        f"tokens        {score.tokens:,} scored of {report.reading.document_tokens:,} read",
    ]
    return "\n".join(lines) + "\n"


def _as_json(opened: Opened, report: "PerplexityReport") -> str:
    score = report.score
    return envelope.dump(
        "perplexity",
        model=envelope.model_object(opened),
        **envelope.reading_objects(report.reading),
        tokens=envelope.tokens_object(report.reading.document_tokens, generated=0),
        sampling=None,
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(opened, report.reading.cache_bytes),
        perplexity={
            "nll": score.nll,
            "ppl": score.ppl if math.isfinite(score.ppl) else None,
            "ppl_se": score.ppl_se,
            "bits_per_byte": score.bits_per_byte,
            "tokens": score.tokens,
            "curve": [asdict(bucket) for bucket in score.curve],
        },
    )
