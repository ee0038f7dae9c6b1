"""``lmi perplexity``: how well a model predicts a text."""

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import closing, envelope
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.choices import method_choice
from lmi_cli.cli.console import Output, mebibytes, require_writable, write_file
from lmi_cli.cli.dry_run import dry_run_of_scoring
from lmi_cli.cli.request import MESSAGES, METHOD, MODEL, OUTPUT, SOURCES, Request
from lmi_cli.cli.session import Opened, Session, open_sources, piped_source, require_whole_input
from lmi_cli.errors import PartialError, UsageError
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.tasks.perplexity import PerplexityReport

SCORING = Panel("Scoring")


@dataclass(frozen=True, kw_only=True)
class PerplexityRequest(Request):
    """Options of ``lmi perplexity``."""

    panels: ClassVar[tuple[str, ...]] = (SOURCES, MODEL, METHOD, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream",)

    arguments: list[str] | None = argument("SOURCE...", "Files, folders, or - for standard input.")
    length: int | None = SCORING("--length N", "Score the first N tokens.")
    nll_out: Path | None = SCORING("--nll-out FILE", "Write the loss of each token to a .npy file.")


def command(request: PerplexityRequest) -> None:
    """Score documents in one pass: perplexity, bits per byte, and the curve by position."""
    length = request.length
    if length is not None and length < 2:
        raise UsageError(f"--length {length}: at least 2 tokens are needed to score 1")
    paths = request.arguments or [piped_source()]
    if request.dry_run:
        dry_run_of_scoring(request, paths, length)
        return
    corpus = open_sources(paths, request)
    sink = Output(request.output)
    if request.nll_out is not None:
        require_writable(request.nll_out)
    choice = method_choice(request)
    with Session(request) as session:
        opened = session.load()
        from lmi_cli.tasks.perplexity import perplexity
        from lmi_cli.text.stream import TokenStream

        task = perplexity(
            opened.loaded,
            TokenStream(corpus, opened.loaded.tokenizer),
            choice,
            length=length,
            keep_nll=request.nll_out is not None,
            chunk=session.chunk(opened),
        )
        report = session.follow(task, "scoring")
    require_whole_input(corpus.sources, corpus.skipped, request)
    if report.short:
        text = f"the text has {report.reading.document_tokens:,} tokens, fewer than {length:,}"
        if request.strict:
            raise PartialError(text)
        session.say(f"warning: {text}; all of them are scored")
    if request.nll_out is not None and report.nll is not None:
        import numpy as np

        file = io.BytesIO()
        np.save(file, report.nll, allow_pickle=False)
        write_file(request.nll_out, file.getvalue())
    sink.write(_as_json(opened, report) if request.json else _as_text(report))
    sink.close()
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s or 0.0
    peak = mebibytes(peak_rss_bytes())
    session.say(f"scored in {seconds:.1f} s ({speed:,.0f} tok/s), peak memory {peak}")
    for line in closing.input_lines(report.reading):
        session.say(line)


def _as_text(report: "PerplexityReport") -> str:
    score = report.score
    lines = [f"{'position':>19}  {'nats/token':>10}  {'tokens':>7}"]
    for bucket in score.curve:
        last = min(bucket.end, report.reading.document_tokens) - 1
        lines.append(f"{bucket.start:>9,}-{last:<9,}  {bucket.nll:>10.4f}  {bucket.tokens:>7,}")
    error = (
        ""
        if score.ppl_se is None
        else f" ± {score.ppl_se:.4f} (standard error, tokens taken as independent)"
    )
    lines += [
        f"perplexity    {score.ppl:.4f}{error}",
        f"nats/token    {score.nll:.4f}",
        f"bits/byte     {score.bits_per_byte:.4f}",
        f"tokens        {score.tokens:,} scored of {report.reading.document_tokens:,} read",
    ]
    return "\n".join(lines) + "\n"


def _as_json(opened: Opened, report: "PerplexityReport") -> str:
    score = report.score
    figures = {
        "nll": score.nll,
        "ppl": score.ppl if math.isfinite(score.ppl) else None,
        "ppl_se": score.ppl_se,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "curve": [asdict(bucket) for bucket in score.curve],
    }
    return envelope.dump_reading(
        "perplexity", opened, report.reading, report.timing, perplexity=figures
    )
