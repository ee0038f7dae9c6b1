"""``lmi models``: what is known and cached."""

from dataclasses import asdict, replace
from typing import Annotated

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.console import Output, message, one_line
from lmi_cli.cli.options import MessageOptions, ModelOptions, OutputOptions, deferred, option
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import open_model
from lmi_cli.errors import ModelError

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="Models: list, pull, rm, calibrate."
)
Json = Annotated[bool, option("--json", help="One JSON object instead of text.", panel="Output")]


def list_models(json: Json = False) -> None:
    """List the models that are known by name or cached."""
    from lmi_cli.checkpoints.resolve import list_models as listed

    models = listed()
    if json:
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


def pull(
    name: Annotated[str, typer.Argument(help="Name, Hub id or .gguf file.")],
    *,
    messages: MessageOptions,
) -> None:
    """Fetch a model, so that it works offline."""
    from lmi_cli.checkpoints.resolve import pull as fetch

    with ProgressDisplay(quiet=messages.quiet, verbose=messages.verbose) as progress:
        files = fetch(name, progress=progress.bytes)
    for note in files.notes:
        message(note)
    Output(None).write(one_line(str(files.folder)) + "\n")


def remove(name: Annotated[str, typer.Argument(help="Name of a cached model.")]) -> None:
    """Delete a model from the cache."""
    from lmi_cli.checkpoints.resolve import remove as delete

    freed = delete(name)
    Output(None).write(one_line(f"removed {name}, {freed / 2**20:,.0f} MiB freed") + "\n")


def calibrate(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="As for --model; the default model.")
    ] = None,
    json: Json = False,
    *,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Find the heads of a model that look things up; evidence and passages come from them."""
    quiet = OutputOptions(quiet=messages.quiet, verbose=messages.verbose)
    with ProgressDisplay(quiet=messages.quiet, verbose=messages.verbose) as progress:
        opened = open_model(replace(model, model=name or model.model), quiet, progress)
        from lmi_cli.models.heads import remember_heads
        from lmi_cli.tasks import calibrate as task

        found = None
        for event in task.calibrate(opened.loaded, chunk=opened.loaded.lm.chunk):
            if isinstance(event, task.Calibration):
                found = event
            else:
                progress.show("calibrating", event.tokens, event.total)
    if found is None:
        raise RuntimeError("the task ended without a result")
    files = opened.loaded.files
    if json:
        ranks = [{"layer": h.layer, "head": h.head, "rank": rank} for h, rank in found.ranks]
        chosen = [list(head) for head in found.looking.heads]
        Output(None).write(
            envelope.dump(
                "calibrate", model=envelope.model_object(opened), ranks=ranks, heads=chosen
            )
        )
    else:
        Output(None).write(f"{one_line(files.id)}: {task.describe(found.ranks)}\n")
    if remember_heads(files, found.looking, found.ranks) is None:
        message("the result could not be cached: set LMI_CACHE_DIR")
    if not found.looking.heads:
        raise ModelError(
            f"no head of {one_line(files.id)} looks things up",
            hint="--answer-from memory needs none; the best heads are listed with their mean ranks",
        )


app.command("list")(deferred(list_models))
app.command("pull")(deferred(pull))
app.command("rm")(deferred(remove))
app.command("calibrate")(deferred(calibrate))


@app.callback()
def default(context: typer.Context, json: Json = False) -> object:
    """List the models that are known by name or cached."""
    return None if context.invoked_subcommand else lambda: list_models(json)
