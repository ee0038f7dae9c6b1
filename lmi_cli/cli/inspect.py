"""``lmi inspect`` and ``--dry-run``: what would be read and needed; what a model is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.console import Output, one_line
from lmi_cli.cli.options import MethodOptions, ModelOptions, OutputOptions, SourceOptions
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import (
    method_choice,
    open_sources,
    piped_source,
    require_whole_input,
    say,
    state_file,
)
from lmi_cli.engine.chunks import CHUNK
from lmi_cli.errors import UsageError
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.models.facts import ModelFacts
    from lmi_cli.tasks.inspect import Forecast, InspectReport
    from lmi_cli.tasks.report import SourceReport

ANSWER_TOKENS = 256
"""Room for an answer, as ``qa`` leaves it by default."""

_NAMED_SKIPS = 10


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL | STATE | SOURCE...",
            help="Files, folders, - for stdin; a state file; a model's name, folder or .gguf file.",
        ),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    output: OutputOptions,
) -> None:
    """Show what would be read and what it would need; what a state file holds; what a model is."""
    from lmi_cli.models.facts import names_model

    named = arguments or []
    if (book := state_file(named)) is not None:
        show_book(book, output)
    elif len(named) == 1 and names_model(named[0]):
        _inspect_model(named[0], model, method, output)
    else:
        dry_run(
            "inspect",
            named or [piped_source()],
            source=source,
            model=model,
            method=method,
            output=output,
            answer=ANSWER_TOKENS,
        )


def dry_run(
    command: str,
    paths: Sequence[str],
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    output: OutputOptions,
    answer: int | None,
) -> None:
    """Report on ``paths`` as ``command`` would read them; ``answer`` as in ``forecast``."""
    corpus = open_sources(paths, source)
    sink = Output(output.output)
    choice = method_choice(method)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        from lmi_cli.checkpoints.resolve import resolve
        from lmi_cli.models.facts import facts_of, tokenizer_of
        from lmi_cli.models.heads import known_heads
        from lmi_cli.models.speeds import recall
        from lmi_cli.tasks.events import Progress
        from lmi_cli.tasks.inspect import InspectReport, forecast, inspect

        files = resolve(
            model.model, offline=model.offline, revision=model.revision, progress=progress.bytes
        )
        progress.clear()
        for note in files.notes:
            say(note, output)
        facts = facts_of(files)
        dtype = _dtype(model, facts)
        looking = known_heads(files)
        for event in inspect(tokenizer_of(files.folder), corpus):
            match event:
                case Progress(tokens, total):
                    progress.show("tokenising", tokens, total)
                case InspectReport():
                    report = event
        progress.clear()
    need = forecast(
        facts,
        choice,
        report.tokens,
        chunk=method.chunk or CHUNK,
        dtype=dtype,
        quantize=_quantize(model),
        answer=answer,
        looking=looking,
        speed=lambda setting: recall(files, setting),
    )
    require_whole_input(corpus, output)
    if output.json:
        sink.write(_as_json(command, facts, need, report))
    else:
        for line in _as_text(facts, need, report):
            sink.write(line + "\n")
    sink.close()
    speed = report.tokens / report.seconds if report.seconds else 0.0
    say(
        f"tokenised in {report.seconds:.1f} s ({speed:,.0f} tok/s, {report.engine}), "
        f"peak memory {peak_rss_bytes() / 2**20:,.0f} MiB",
        output,
    )
    for note in report.notes:
        say(note, output)
    for item in report.sources:
        for issue in (item.issues + item.remarks)[:3]:
            say(f"{item.origin}: {issue}", output)


def show_book(path: Path, output: OutputOptions) -> None:
    """Print what a state file holds."""
    from lmi_cli.tasks.book import changes, facts_of

    facts = facts_of(path)
    size = path.stat().st_size
    sink = Output(output.output)
    if output.json:
        described = asdict(facts) | {"path": str(path), "bytes": size}
        sink.write(envelope.dump("inspect", state_file=described))
    else:
        numbers = ", ".join(f"{k} {v:,}" for k, v in facts.method.items() if k != "name")
        lines = {
            "state file": f"{one_line(str(path))}, {_megabytes(size)}",
            "read": f"{facts.tokens:,} tokens"
            + ("" if facts.complete else ", interrupted: run the same lmi read again"),
            "model": f"{one_line(facts.model)} ({facts.dtype}), {facts.identity[:12]}",
            "method": f"{facts.method['name']} ({numbers})" if numbers else facts.method["name"],
            "kept": ", ".join(facts.kept) or "no index: no evidence, no passages",
        }
        for label, text in lines.items():
            sink.write(f"{label:<16}{text}\n")
        for source in facts.sources:
            pages = f", {source['pages']:,} pages" if source["pages"] else ""
            origin = one_line(source["origin"])
            sink.write(f"{'source':<16}{origin} ({source['kind']}{pages})\n")
        for item in facts.skipped:
            sink.write(f"{'skipped':<16}{one_line(item['origin'])}: {one_line(item['reason'])}\n")
    sink.close()
    for change in changes(facts):
        say(change, output)


def _inspect_model(
    name: str, model: ModelOptions, method: MethodOptions, output: OutputOptions
) -> None:
    from lmi_cli.checkpoints.resolve import resolve
    from lmi_cli.models.facts import facts_of, facts_of_gguf
    from lmi_cli.tasks.inspect import forecast

    if model.model is not None:
        raise UsageError(f"{name} is a model, and --model names another")
    choice = method_choice(method)
    sink = Output(output.output)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        if name.endswith(".gguf"):
            facts = facts_of_gguf(Path(name), progress.bytes)
        else:
            facts = facts_of(resolve(name, offline=model.offline, progress=progress.bytes))
        progress.clear()
    # A text that does not fit shows the method at work.
    need = forecast(
        facts,
        choice,
        facts.trained_length + 1,
        chunk=method.chunk or CHUNK,
        dtype=_dtype(model, facts),
        quantize=_quantize(model),
        answer=ANSWER_TOKENS,
    )
    if output.json:
        sink.write(
            envelope.dump(
                "inspect",
                model=_model_object(facts, need.dtype),
                method=_method_object(need),
                memory=_memory_object(need),
            )
        )
    else:
        windows = Counter(window for window in facts.native_windows if window is not None)
        native = ", ".join(f"{count} of {window:,}" for window, count in windows.items())
        lines = {
            "model": one_line(facts.id),
            "family": f"{facts.family}, {facts.layers} layers",
            "trained length": f"{facts.trained_length:,} tokens",
            "window": _method_text(need) + " beyond the trained length",
            "native windows": native or "none",
            "cache": f"{facts.layers * facts.layer_bytes_per_token(need.dtype):,} bytes/token, "
            f"{_megabytes(need.cache_bytes)} at most ({need.dtype})",
            "weights": f"{facts.weights:,}, {_megabytes(need.weights_bytes)} ({need.dtype})",
            "stored as": facts.dtype,
            "vocabulary": f"{facts.vocabulary:,} tokens",
            "identity": facts.identity,
        }
        for label, text in lines.items():
            sink.write(f"{label:<16}{text}\n")
    sink.close()


def _dtype(model: ModelOptions, facts: "ModelFacts") -> str:
    """The dtype that is asked for, or that of the stored weights."""
    from lmi_cli.models.facts import DTYPE_BYTES

    if model.dtype == "auto":
        return facts.dtype
    if model.dtype not in DTYPE_BYTES:
        raise UsageError(
            f"dtype {model.dtype!r} is not known",
            hint="one of auto, bfloat16, float16, float32",
        )
    return model.dtype


def _quantize(model: ModelOptions) -> str:
    from lmi_cli.models.facts import QUANTIZE

    if (model.quantize or "none") not in QUANTIZE:
        raise UsageError(
            f"quantize {model.quantize!r} is not known", hint="one of " + ", ".join(QUANTIZE)
        )
    return model.quantize or "none"


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _model_object(facts: "ModelFacts", dtype: str) -> dict[str, Any]:
    return {
        "id": facts.id,
        "kind": facts.kind,
        "identity": facts.identity,
        "family": facts.family,
        "trained_length": facts.trained_length,
        "dtype": dtype,
        "device_map": None,
        "layers": facts.layers,
        "native_windows": list(facts.native_windows),
        "vocabulary": facts.vocabulary,
        "weights": facts.weights,
        "cache_bytes_per_token": facts.layers * facts.layer_bytes_per_token(dtype),
    }


def _method_object(need: "Forecast") -> dict[str, Any]:
    return {
        "name": need.method,
        **need.parameters,
        "bound_tokens": need.bound_tokens,
        "form": need.form,
    }


def _memory_object(need: "Forecast") -> dict[str, Any]:
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_bytes": need.weights_bytes,
        "cache_bytes": need.cache_bytes,
        "store_bytes": need.store_bytes,
        "device_peak_bytes": None,
    }


def _as_json(command: str, facts: "ModelFacts", need: "Forecast", report: "InspectReport") -> str:
    return envelope.dump(
        command,
        dry_run=True,
        model=_model_object(facts, need.dtype),
        method=_method_object(need),
        sources=[asdict(item) for item in report.sources],
        skipped=[asdict(item) for item in report.skipped],
        tokens=envelope.tokens_object(report.tokens, generated=0),
        sampling=None,
        timing={"tokenise_s": report.seconds, "prefill_s": need.prefill_s},
        memory=_memory_object(need),
        inspect={
            "fits": need.form == "fits",
            "chars": report.chars,
            "tokenizer": report.engine,
            "notes": report.notes,
        },
    )


def _as_text(facts: "ModelFacts", need: "Forecast", report: "InspectReport") -> Iterator[str]:
    yield from _tree(report.sources)
    inside = sum(item.tokens for item in report.sources)
    headers = report.tokens - inside
    named = f" and {headers:,} in the lines that name the files" if headers else ""
    yield ""
    yield (
        f"total    {len(report.sources):,} files, {report.tokens:,} tokens "
        f"({inside:,} of text{named}), {report.chars:,} characters"
    )
    if report.skipped:
        reasons = Counter(item.reason for item in report.skipped).most_common()
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        yield f"skipped  {one_line(listed)}"
        for item in report.skipped[:_NAMED_SKIPS]:
            yield one_line(f"         {item.origin}: {item.reason}")
        if len(report.skipped) > _NAMED_SKIPS:
            yield f"         {len(report.skipped) - _NAMED_SKIPS:,} more (see --json)"
    length = f"the trained length of {facts.trained_length:,} tokens of {one_line(facts.id)}"
    if need.form == "fits":
        yield f"fits     yes, {length}"
    else:
        yield f"fits     not {length}: read with {_method_text(need)}"
    per_token = facts.layers * facts.layer_bytes_per_token(need.dtype)
    yield (
        f"memory   weights {_megabytes(need.weights_bytes)} and a cache of at most "
        f"{_megabytes(need.cache_bytes)} ({need.bound_tokens:,} tokens a layer, {per_token:,} "
        f"bytes a token in all layers, {need.dtype})"
        + (f", an index of {_megabytes(need.store_bytes)}" if need.store_bytes else "")
        + ", beside the program itself"
    )
    if need.prefill_s is None:
        yield "time     not known: this model has not read so on this machine yet"
    else:
        speed = report.tokens / need.prefill_s if need.prefill_s else 0.0
        yield f"time     about {_duration(need.prefill_s)}, at {speed:,.0f} tok/s as last time"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _method_text(need: "Forecast") -> str:
    named = ", ".join(f"{name} {value:,}" for name, value in need.parameters.items())
    return f"{need.method} ({named})" if named else need.method


@dataclass
class _Folder:
    """Part of the tree."""

    tokens: int = 0
    folders: "dict[str, _Folder]" = field(default_factory=dict)
    files: "list[tuple[str, SourceReport]]" = field(default_factory=list)


def _tree(sources: "Sequence[SourceReport]") -> Iterator[str]:
    """A line for each file and folder, with its tokens; chains of single folders are one line."""
    root = _Folder()
    for source in sources:
        *folders, name = source.origin.split("/")
        folder = root
        folder.tokens += source.tokens
        for part in folders:
            folder = folder.folders.setdefault(part, _Folder())
            folder.tokens += source.tokens
        folder.files.append((name, source))
    yield from _branches(root, "")


def _branches(folder: _Folder, indent: str) -> Iterator[str]:
    for name, inner in folder.folders.items():
        path, end = name, inner
        while len(end.folders) == 1 and not end.files:
            ((part, end),) = end.folders.items()
            path += f"/{part}"
        yield f"{inner.tokens:>13,}  {indent}{one_line(path)}/"
        yield from _branches(end, indent + "  ")
    for name, source in folder.files:
        pages = f", {source.pages:,} pages" if source.pages else ""
        yield f"{source.tokens:>13,}  {indent}{one_line(name)}  ({source.kind}{pages})"
