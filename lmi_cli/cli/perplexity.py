"""``lmi perplexity``: how well a model predicts texts, read by one method or by several."""

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lmi_cli import __version__
from lmi_cli.cli import closing, envelope
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.choices import compared, method_choice
from lmi_cli.cli.console import (
    Output,
    columns,
    mebibytes,
    require_writable,
    write_file,
)
from lmi_cli.cli.dry_run import dry_run_of_scoring
from lmi_cli.cli.perplexity_report import curves, loss_rows, scores_as_text
from lmi_cli.cli.request import MESSAGES, METHOD, MODEL, OUTPUT, PROCESSES, SOURCES, Request
from lmi_cli.cli.rows import write_rows
from lmi_cli.cli.session import Opened, Session, open_sources, piped_source, require_whole_input
from lmi_cli.cli.sharing import done_by_others, joined, require_files
from lmi_cli.errors import PartialError, UsageError
from lmi_cli.figures import THEMES, line_chart, require_figure
from lmi_cli.journal import Journal
from lmi_cli.memory import peak_rss_bytes
from lmi_cli.processes import Processes

if TYPE_CHECKING:
    from lmi_cli.tasks.losses import Score
    from lmi_cli.tasks.perplexity import MethodScore, PerplexityReport

SCORING = Panel("Scoring")
_TRUNCATING = "truncate"
_ANY_LENGTH = 2**53


@dataclass(frozen=True, kw_only=True)
class PerplexityRequest(Request):
    """Options of ``lmi perplexity``."""

    panels: ClassVar[tuple[str, ...]] = (SOURCES, MODEL, METHOD, PROCESSES, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream",)

    arguments: list[str] | None = argument("SOURCE...", "Files, folders, or - for standard input.")
    compare: str | None = SCORING(
        "--compare NAME,...", "Methods to score by, side by side, instead of --method."
    )
    length: int | None = SCORING(
        "--length N", "Score the first N tokens; with --each, those of each source."
    )
    each: bool = SCORING(
        "--each", "Score each source by itself, instead of all of them as one stream.", False
    )
    stride: int | None = SCORING(
        "--stride N",
        "Read windows (of --window tokens) that advance by N, each anew, and score what is new, as "
        "in the documentation of transformers; implies --method truncate.",
    )
    results: Path | None = SCORING(
        "--results FILE",
        "Keep results there as they come; an interrupted run goes on from it, but by full and "
        "inf-llm it scores the text that it was in again from its beginning.",
    )
    nll_out: Path | None = SCORING(
        "--nll-out FILE",
        "Write the loss of each token to a .npy file; with --compare, a row for each method.",
    )
    csv: Path | None = SCORING(
        "--csv FILE", "Write a table of mean losses by method, source and position."
    )
    plot: Path | None = SCORING(
        "--plot FILE", "Draw the curve over position: a .png, .svg or .pdf file."
    )
    theme: str = SCORING(
        "--theme NAME", f"Colours of the figure: {' or '.join(THEMES)}.", next(iter(THEMES))
    )


def command(request: PerplexityRequest) -> None:
    """Score documents: perplexity, bits per byte, and the curve by position."""
    with joined(request) as (own, processes):
        _score(own, processes)


def _score(request: PerplexityRequest, processes: Processes) -> None:
    length = request.length
    if length is not None and length < 2:
        raise UsageError(f"--length {length}: at least 2 tokens are needed to score 1")
    requests = _requests(request)
    strides = _strides(requests, request.stride)
    paths = request.arguments or [piped_source()]
    if request.dry_run:
        dry_run_of_scoring(requests, paths, length, each=request.each, strides=strides)
        return
    require_files(request, paths)
    corpus = open_sources(paths, request)
    sink = Output(request.output)
    written = (request.output, request.results, request.csv, request.plot, request.nll_out)
    require_writable(*written, sources=paths)
    require_figure(request.plot, request.theme)
    Journal(request.results, {})  # another kind of file is refused before a model is loaded
    choices = [method_choice(each) for each in requests]
    if done_by_others(request):
        return
    with Session(request) as session:
        with processes.first():
            opened = session.load()
        from lmi_cli.tasks.perplexity import perplexity
        from lmi_cli.tasks.scoring import ScoringMethod, ScoringRequest
        from lmi_cli.text.stream import TokenStream

        chunk = session.chunk(opened)
        scoring = ScoringRequest(
            methods=list(map(ScoringMethod, choices, strides)),
            length=length,
            each=request.each,
            keep_nll=request.nll_out is not None,
            chunk=chunk,
            results=request.results,
            run=_identity(opened, chunk),
        )
        stream = TokenStream(corpus, opened.loaded.tokenizer)
        task = perplexity(opened.loaded, stream, scoring, processes)
        report = session.follow(task, "scoring")
    if processes.rank:
        return
    require_whole_input(corpus.sources, corpus.skipped, request)
    if report.short:
        text = f"the text has {report.tokens:,} tokens, fewer than {length:,}"
        if request.strict:
            raise PartialError(text)
        session.say(f"warning: {text}; all of them are scored")
    _write_files(request, opened, report)
    if request.json:
        sink.write(_as_json(opened, report))
    else:
        width = None if request.output is not None else columns(sys.stdout)
        for text in scores_as_text(report, width, colour=sink.coloured):
            sink.write(text, coloured=True)
    sink.close()
    for line in (*_closing(report, request, processes), *closing.input_lines(report)):
        session.say(line)


def _requests(request: PerplexityRequest) -> list[PerplexityRequest]:
    """The request for each method."""
    if request.compare is not None:
        return compared(request, request.compare)
    if request.stride is not None and request.method is None:
        request = replace(request, method=_TRUNCATING)
    method_choice(request)
    return [request]


def _strides(requests: Sequence[Request], stride: int | None) -> list[int | None]:
    """The stride of each method: of those that truncate, if one was given.

    Raises:
        UsageError: No method has a use for it, or it is out of range.
    """
    if stride is None:
        return [None] * len(requests)
    cuts = [method_choice(each).truncation(_ANY_LENGTH) for each in requests]
    if not any(cut is not None for cut in cuts):
        raise UsageError(
            "--stride is for windows that are read anew, as by --method truncate",
            hint="leave --method out, or compare with truncate",
        )
    for cut in cuts:
        if cut is not None:
            cut.require_stride(stride)
    return [None if cut is None else stride for cut in cuts]


def _identity(opened: Opened, chunk: int) -> dict[str, Any]:
    """What results depend on, beside methods, texts, and options that the task knows."""
    model = envelope.model_object(opened)
    kept = {name: model[name] for name in ("identity", "dtype", "quantize")}
    return {"lmi_version": __version__, "command": "perplexity", "model": kept, "chunk": chunk}


def _write_files(request: PerplexityRequest, opened: Opened, report: "PerplexityReport") -> None:
    if request.nll_out is not None:
        import numpy as np

        rows = [score.nll for score in report.methods if score.nll is not None]
        file = io.BytesIO()
        np.save(file, np.stack(rows) if request.compare else rows[0], allow_pickle=False)
        write_file(request.nll_out, file.getvalue())
    if request.csv is not None:
        write_rows(request.csv, loss_rows(report))
    if request.plot is not None:
        line_chart(
            request.plot,
            curves(report),
            title=f"Loss by position, {opened.loaded.files.id}",
            x_label="position in the source, tokens" if report.each else "position, tokens",
            y_label="nats/token",
            theme=request.theme,
        )


def _closing(
    report: "PerplexityReport", request: PerplexityRequest, processes: Processes
) -> list[str]:
    """The time that each method took, and the memory."""
    lines, together = [], " by all processes together" if processes.count > 1 else ""
    for score in report.methods:
        name = f"{score.method['name']}: " if len(report.methods) > 1 else ""
        seconds, speed = score.timing.prefill_s, score.timing.prefill_tok_per_s or 0.0
        if seconds:
            lines.append(f"{name}scored in {seconds:.1f} s ({speed:,.0f} tok/s{together})")
        else:
            lines.append(f"{name}all results come from {request.results}")
    lines[-1] += f", peak memory {mebibytes(peak_rss_bytes())}"
    return lines


def _as_json(opened: Opened, report: "PerplexityReport") -> str:
    from lmi_cli.tasks.report import Timing

    lm, total = opened.loaded.lm, Timing()
    seconds = sum(score.timing.prefill_s for score in report.methods)
    total.add_prefill(report.read, seconds)
    methods = [_method_object(report, score) for score in report.methods]
    alone = methods[0] if len(methods) == 1 else {}
    return envelope.dump(
        "perplexity",
        model=envelope.model_object(opened),
        method=alone.get("method"),
        sources=[asdict(source) for source in report.sources],
        skipped=[asdict(item) for item in report.skipped],
        tokens=envelope.tokens_object(report.tokens, generated=0),
        sampling=None,
        timing=envelope.timing_object(opened, total),
        memory=envelope.memory_object(
            lm.weights_bytes,
            max(score.cache_bytes for score in report.methods),
            device_peak=lm.device_peak_bytes(),
        ),
        perplexity=alone.get("perplexity"),
        methods=methods,
    )


def _method_object(report: "PerplexityReport", score: "MethodScore") -> dict[str, Any]:
    """One of ``methods``: what the method is, its figures, those of the sources, its time."""
    figures = _figures(score.score)
    if score.documented_nll is not None:
        figures["documented_nll"] = score.documented_nll
        figures["documented_ppl"] = _finite_exp(score.documented_nll)
    sources = [
        {"origin": source.origin, **_figures(part)}
        for source, part in zip(report.sources, score.sources, strict=True)
        if part is not None
    ]
    if score.headers is not None:
        sources.append({"origin": None, **_figures(score.headers)})
    return {
        "method": {**score.method, "bound_tokens": score.bound_tokens, "form": score.form},
        "perplexity": figures,
        "sources": sources,
        "timing": {
            "prefill_s": score.timing.prefill_s,
            "prefill_tok_per_s": score.timing.prefill_tok_per_s,
        },
    }


def _figures(score: "Score") -> dict[str, Any]:
    return {
        "nll": score.nll,
        "ppl": score.ppl if math.isfinite(score.ppl) else None,
        "ppl_se": score.ppl_se,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "curve": [asdict(bucket) for bucket in score.curve],
    }


def _finite_exp(nll: float) -> float | None:
    from lmi_cli.tasks.losses import perplexity_of

    value = perplexity_of(nll)
    return value if math.isfinite(value) else None
