"""``lmi models``: what is known and cached."""

from dataclasses import MISSING, asdict, dataclass
from typing import Annotated, ClassVar

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import argument, parsed
from lmi_cli.cli.console import Output, message, one_line
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
    """What ``lmi models list`` is asked for."""

    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)


@dataclass(frozen=True, kw_only=True)
class PullRequest(Request):
    """What ``lmi models pull`` is asked for."""

    panels: ClassVar[tuple[str, ...]] = (MESSAGES,)

    name: str = argument("NAME", "A name, a Hub id or a .gguf file.", MISSING)


@dataclass(frozen=True, kw_only=True)
class RemoveRequest(Request):
    """What ``lmi models rm`` is asked for."""

    name: str = argument("NAME", "Name of a cached model.", MISSING)


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest(Request):
    """What ``lmi models calibrate`` is asked for."""

    panels: ClassVar[tuple[str, ...]] = (MODEL, MESSAGES)

    name: str | None = argument("[NAME]", "As for --model; without it, the default model.")
    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)


def list_models(request: ListRequest) -> None:
    """List the models that are known by name or cached."""
    from lmi_cli.checkpoints.resolve import list_models as listed

    models = listed()
    if request.json:
        described = [
            asdict(model) | {"folder": None if model.folder is None else str(model.folder)}
            for model in models
        ]
        Output(None).write(envelope.dump("models", models=described))
        return
    lines = []
    for model in models:
        where = "not cached" if model.folder is None else f"{model.size_bytes / 2**20:,.0f} MiB"
        problem = f" ({model.problem}: built again on its next use)" if model.problem else ""
        lines.append(one_line(f"{model.name:<28} {where:>12}  {model.summary}{problem}") + "\n")
    Output(None).write("".join(lines))


def pull(request: PullRequest) -> None:
    """Fetch a model, so that it works offline."""
    from lmi_cli.checkpoints.resolve import pull as fetch

    with Session(request) as session:
        files = fetch(request.name, progress=session.progress.bytes)
    for note in files.notes:
        message(note)
    Output(None).write(one_line(str(files.folder)) + "\n")


def remove(request: RemoveRequest) -> None:
    """Delete a model from the cache."""
    from lmi_cli.checkpoints.resolve import remove as delete

    freed = delete(request.name)
    Output(None).write(one_line(f"removed {request.name}, {freed / 2**20:,.0f} MiB freed") + "\n")


def calibrate(request: CalibrateRequest) -> None:
    """Find the retrieval heads of a model, from which evidence and passages come."""
    with Session(request) as session:
        opened = session.load(request.name)
        from lmi_cli.models.heads import remember_heads
        from lmi_cli.tasks.calibrate import calibrate as task

        model = opened.loaded
        found = session.follow(task(model, chunk=session.chunk(opened)), "calibrating")
    files = model.files
    if request.json:
        ranks = [{"layer": h.layer, "head": h.head, "rank": rank} for h, rank in found.ranks]
        chosen = [list(head) for head in found.retrieval.heads]
        Output(None).write(
            envelope.dump(
                "calibrate", model=envelope.model_object(opened), ranks=ranks, heads=chosen
            )
        )
    else:
        named = (f"layer {head.layer} head {head.head} ({rank:.2f})" for head, rank in found.ranks)
        Output(None).write(f"{one_line(files.id)}: {', '.join(named)}\n")
    if remember_heads(files, found.retrieval, found.ranks) is None:
        message("the result could not be cached: set LMI_CACHE_DIR")
    if not found.retrieval.heads:
        raise ModelError(
            f"{one_line(files.id)} has no retrieval heads",
            hint="--answer-from memory needs none; the best heads are listed with their mean ranks",
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
