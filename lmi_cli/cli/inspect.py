"""``lmi inspect``: a description of documents, of a state file or of a model."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import argument
from lmi_cli.cli.choices import method_choice, placement_of
from lmi_cli.cli.console import Output, columns, mebibytes, one_line, require_writable
from lmi_cli.cli.dry_run import cache_text, dry_run, method_text, planned_objects
from lmi_cli.cli.layers import drawn_layers, layer_lines, layer_objects
from lmi_cli.cli.request import MESSAGES, METHOD, MODEL, OUTPUT, SOURCES, Request
from lmi_cli.cli.rows import csv_option, jsonl_option, write_row_files
from lmi_cli.cli.session import Session, piped_source, state_file
from lmi_cli.engine import CHUNK
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import named_parameters

if TYPE_CHECKING:
    from lmi_cli.models.known import KnownModel
    from lmi_cli.tasks.plan import Plan


_LABEL = 16
_USUAL_WIDTH, _LEAST_WIDTH = 80, 40
_COLUMNS = (
    "origin", "kind", "bytes", "chars", "pages", "lines", "tokens", "issues", "remarks", "skipped"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InspectRequest(Request):
    """Options of ``lmi inspect``."""

    panels: ClassVar[tuple[str, ...]] = (SOURCES, MODEL, METHOD, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("dry_run", "no_stream")

    arguments: list[str] | None = argument(
        "MODEL | STATE | SOURCE...",
        "Files, folders, - for standard input; a state file; a model's name, folder or .gguf file.",
    )
    csv: Path | None = csv_option(OUTPUT, "a row for each file, also of those that are skipped,")
    jsonl: Path | None = jsonl_option(OUTPUT, "the same rows")


def command(request: InspectRequest) -> None:
    """Describe documents (what would be read, at what cost), a state file or a model."""
    from lmi_cli.models.facts import names_model

    named = request.arguments or []
    state = state_file(named)
    of_model = len(named) == 1 and state is None and names_model(named[0])
    if (state or of_model) and (request.csv or request.jsonl):
        raise UsageError(f"{named[0]} has no rows of files for --csv and --jsonl")
    require_writable(request.output, request.csv, request.jsonl)
    if of_model:
        _inspect_model(named[0], request)
        return
    report = dry_run("inspect", request, named or [piped_source()])
    if report is not None:
        rows = [{**asdict(source), "skipped": None} for source in report.sources]
        rows += [{"origin": item.origin, "skipped": item.reason} for item in report.skipped]
        write_row_files(request.csv, request.jsonl, rows, _COLUMNS)


def _inspect_model(name: str, request: Request) -> None:
    if request.model is not None and "model" not in request.standing:
        raise UsageError(f"{name} is a model, but --model names one as well")
    choice = method_choice(request)
    sink = Output(request.output)
    with Session(request) as session:
        known = _gguf(name, session) if name.endswith(".gguf") else session.known_model(name)
    from lmi_cli.tasks.plan import plan_long_text

    plan = plan_long_text(known, choice, request.chunk or CHUNK)
    layers = drawn_layers(known.facts, plan.method)
    if request.json:
        objects = planned_objects(known, plan) | {"layers": layer_objects(layers)}
        sink.write(envelope.dump("inspect", **objects))
    else:
        for label, text in _lines(known, plan).items():
            sink.write(f"{label:<{_LABEL}}{text}\n")
        width = max(_LEAST_WIDTH, columns(sys.stdout) or _USUAL_WIDTH) - _LABEL
        for row, line in enumerate(layer_lines(layers, plan.method.name, width)):
            sink.write(f"{'' if row else 'layers':<{_LABEL}}{line}\n")
    sink.close()


def _gguf(name: str, session: Session) -> "KnownModel":
    """A model as the header of a GGUF file describes it, without converting the file."""
    from lmi_cli.models.known import known_gguf

    known = known_gguf(Path(name), placement_of(session.request), session.progress.bytes)
    session.progress.clear()
    return known


def _lines(known: "KnownModel", plan: "Plan") -> dict[str, str]:
    from lmi_cli.models.trained_length import TrainedLength

    facts, dtype = known.facts, plan.precision.dtype
    length = facts.length or TrainedLength(facts.trained_length)
    per_token = len(facts.layers) * facts.layer_bytes_per_token(dtype)
    state = {"state": f"{facts.recurrent_bytes:,} bytes in recurrent layers (float32)"}
    return {
        "model": one_line(known.files.id),
        "family": f"{facts.family}, {len(facts.every_layer)} layers",
        "trained length": str(length),
        "window": method_text(named_parameters(plan.method)) + " beyond the trained length",
        "cache": f"{per_token:,} bytes/token, {cache_text(plan)} ({dtype})",
        **(state if facts.recurrent_bytes else {}),
        "weights": f"{facts.weights:,}, {mebibytes(plan.weights_bytes)} ({plan.precision.name})",
        "stored as": f"blocks and {facts.dtype}" if facts.block_bytes else facts.dtype,
        "vocabulary": f"{facts.vocabulary:,} tokens",
        "identity": known.files.identity,
    }
