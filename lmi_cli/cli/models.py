"""``lmi models``: list, fetch, remove and calibrate models."""

from dataclasses import MISSING, asdict, dataclass
from typing import Annotated, ClassVar

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import argument, parsed
from lmi_cli.cli.console import Output, mebibytes, one_line
from lmi_cli.cli.request import MESSAGES, MODEL, OUTPUT, Request
from lmi_cli.cli.session import Session
from lmi_cli.errors import ModelError

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List, fetch, remove and calibrate models.",
)


@dataclass(frozen=True, kw_only=True)
class ListRequest(Request):
    """Options of ``lmi models list``."""

    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)


@dataclass(frozen=True, kw_only=True)
class PullRequest(Request):
    """Options of ``lmi models pull``."""

    panels: ClassVar[tuple[str, ...]] = (MESSAGES,)

    name: str = argument("NAME", "A name, a Hub id or a .gguf file.", MISSING)


@dataclass(frozen=True, kw_only=True)
class RemoveRequest(Request):
    """Options of ``lmi models rm``."""

    name: str = argument("NAME", "Name of a cached model.", MISSING)


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest(Request):
    """Options of ``lmi models calibrate``."""

    panels: ClassVar[tuple[str, ...]] = (MODEL, MESSAGES)

    name: str | None = argument("[NAME]", "As for --model; if omitted, the default model.")
    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)


def list_models(request: ListRequest) -> None:
    """List the models that are known by name or cached."""
    from lmi_cli.checkpoints.cached import list_models as listed

    models, sink = listed(), Output(None)
    if request.json:
        described = [asdict(m) | {"folder": m.folder and str(m.folder)} for m in models]
        sink.write(envelope.dump("models", models=described))
        return
    for model in models:
        where = "not cached" if model.folder is None else mebibytes(model.size_bytes)
        problem = f" ({model.problem}: will be rebuilt on next use)" if model.problem else ""
        sink.write(one_line(f"{model.name:<28} {where:>12}  {model.summary}{problem}") + "\n")


def pull(request: PullRequest) -> None:
    """Fetch a model, so that it works offline."""
    from lmi_cli.checkpoints.resolve import pull as fetch

    with Session(request) as session:
        files = fetch(request.name, progress=session.progress.bytes)
        for note in files.notes:
            session.say(note)
    Output(None).write(one_line(str(files.folder)) + "\n")


def remove(request: RemoveRequest) -> None:
    """Delete a model from the cache."""
    from lmi_cli.checkpoints.cached import remove as delete

    freed = mebibytes(delete(request.name))
    Output(None).write(one_line(f"removed {request.name}, {freed} freed") + "\n")


def calibrate(request: CalibrateRequest) -> None:
    """Find the retrieval heads of a model, which locate evidence and passages."""
    with Session(request) as session:
        opened = session.load(request.name)
        from lmi_cli.models.heads import remember_heads
        from lmi_cli.tasks.calibrate import calibrate as task

        model = opened.loaded
        found = session.follow(task(model, chunk=session.chunk(opened)), "calibrating")
    files = model.files
    if request.json:
        parts = {
            "model": envelope.model_object(opened),
            "ranks": [head._asdict() | {"rank": rank} for head, rank in found.ranks],
            "heads": [list(head) for head in found.retrieval.heads],
        }
        Output(None).write(envelope.dump("calibrate", **parts))
    else:
        named = (f"layer {head.layer} head {head.head} ({rank:.2f})" for head, rank in found.ranks)
        Output(None).write(f"{one_line(files.id)}: {', '.join(named)}\n")
    if remember_heads(files, found.retrieval, found.ranks) is None:
        session.say("the result could not be cached: set LMI_CACHE_DIR to a writable folder")
    if not found.retrieval.heads:
        raise ModelError(
            f"{one_line(files.id)} has no retrieval heads",
            hint="--answer-from memory works without them; the best heads found are listed above",
        )


app.command("list")(parsed(list_models))
app.command("pull")(parsed(pull))
app.command("rm")(parsed(remove))
app.command("calibrate")(parsed(calibrate))


@app.callback()
def default(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> object:
    """List, fetch, remove and calibrate models; without a command, list them."""
    return None if context.invoked_subcommand else lambda: list_models(ListRequest(json=json))
