"""``lmi inspect``: a description of documents, of a state file or of a model."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import argument
from lmi_cli.cli.choices import method_choice, placement_of
from lmi_cli.cli.console import Output, mebibytes, one_line
from lmi_cli.cli.dry_run import cache_text, dry_run, method_text, planned_objects
from lmi_cli.cli.request import MESSAGES, METHOD, MODEL, OUTPUT, SOURCES, Request
from lmi_cli.cli.session import Session, piped_source, state_file
from lmi_cli.engine import CHUNK
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import named_parameters

if TYPE_CHECKING:
    from lmi_cli.models.known import KnownModel
    from lmi_cli.tasks.plan import Plan


@dataclass(frozen=True, kw_only=True)
class InspectRequest(Request):
    """Options of ``lmi inspect``."""

    panels: ClassVar[tuple[str, ...]] = (SOURCES, MODEL, METHOD, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("dry_run", "no_stream")

    arguments: list[str] | None = argument(
        "MODEL | STATE | SOURCE...",
        "Files, folders, - for standard input; a state file; a model's name, folder or .gguf file.",
    )


def command(request: InspectRequest) -> None:
    """Describe documents (what would be read, at what cost), a state file or a model."""
    from lmi_cli.models.facts import names_model

    named = request.arguments or []
    if len(named) == 1 and state_file(named) is None and names_model(named[0]):
        _inspect_model(named[0], request)
    else:
        dry_run("inspect", request, named or [piped_source()])


def _inspect_model(name: str, request: Request) -> None:
    if request.model is not None and "model" not in request.standing:
        raise UsageError(f"{name} is a model, but --model names one as well")
    choice = method_choice(request)
    sink = Output(request.output)
    with Session(request) as session:
        known = _gguf(name, session) if name.endswith(".gguf") else session.known_model(name)
    from lmi_cli.tasks.plan import plan_long_text

    plan = plan_long_text(known, choice, request.chunk or CHUNK)
    if request.json:
        sink.write(envelope.dump("inspect", **planned_objects(known, plan)))
    else:
        for label, text in _lines(known, plan).items():
            sink.write(f"{label:<16}{text}\n")
    sink.close()


def _gguf(name: str, session: Session) -> "KnownModel":
    """A model as the header of a GGUF file describes it, without converting the file."""
    from lmi_cli.models.known import known_gguf

    known = known_gguf(Path(name), placement_of(session.request), session.progress.bytes)
    session.progress.clear()
    return known


def _lines(known: "KnownModel", plan: "Plan") -> dict[str, str]:
    facts, dtype = known.facts, plan.precision.dtype
    windows = Counter(window for window in facts.native_windows if window is not None)
    native = ", ".join(f"{count} of {window:,}" for window, count in windows.items())
    per_token = len(facts.layers) * facts.layer_bytes_per_token(dtype)
    return {
        "model": one_line(known.files.id),
        "family": f"{facts.family}, {len(facts.layers)} layers",
        "trained length": f"{facts.trained_length:,} tokens",
        "window": method_text(named_parameters(plan.method)) + " beyond the trained length",
        "native windows": native or "none",
        "cache": f"{per_token:,} bytes/token, {cache_text(plan)} ({dtype})",
        "weights": f"{facts.weights:,}, {mebibytes(plan.weights_bytes)} ({plan.precision.name})",
        "stored as": f"blocks and {facts.dtype}" if facts.block_bytes else facts.dtype,
        "vocabulary": f"{facts.vocabulary:,} tokens",
        "identity": known.files.identity,
    }
