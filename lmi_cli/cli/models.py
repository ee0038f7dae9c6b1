"""``lmi models``: what is known and cached."""

from dataclasses import asdict
from typing import Annotated

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.console import Output, message, one_line
from lmi_cli.cli.options import MessageOptions, deferred, option
from lmi_cli.cli.progress import ProgressDisplay

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="Models: list, pull NAME, rm NAME."
)
Json = Annotated[bool, option("--json", help="One JSON object instead of text.", panel="Output")]


def list_models(json: Json = False) -> None:
    """List the models that are known by name or cached."""
    from lmi_cli.models.store import list_models as listed

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
    from lmi_cli.models.store import pull as fetch

    with ProgressDisplay(quiet=messages.quiet, verbose=messages.verbose) as progress:
        files = fetch(name, progress=progress.bytes)
    for note in files.notes:
        message(note)
    Output(None).write(one_line(str(files.folder)) + "\n")


def remove(name: Annotated[str, typer.Argument(help="Name of a cached model.")]) -> None:
    """Delete a model from the cache."""
    from lmi_cli.models.store import remove as delete

    freed = delete(name)
    Output(None).write(one_line(f"removed {name}, {freed / 2**20:,.0f} MiB freed") + "\n")


app.command("list")(deferred(list_models))
app.command("pull")(deferred(pull))
app.command("rm")(deferred(remove))


@app.callback()
def default(context: typer.Context, json: Json = False) -> object:
    """List the models that are known by name or cached."""
    return None if context.invoked_subcommand else lambda: list_models(json)
