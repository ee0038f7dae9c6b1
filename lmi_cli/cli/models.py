"""``lmi models``: what is known and cached."""

import sys
from typing import Annotated

import typer

from lmi_cli.cli.console import one_line
from lmi_cli.cli.options import OutputOptions, deferred
from lmi_cli.cli.progress import ProgressDisplay

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="Models: list, pull NAME, rm NAME."
)


def list_models() -> None:
    """List the models that are known by name or cached."""
    from lmi_cli.models.store import list_models as listed

    for model in listed():
        where = f"{model.size_bytes / 2**20:,.0f} MiB" if model.size_bytes else "not cached"
        sys.stdout.write(one_line(f"{model.name:<28} {where:>12}  {model.summary}") + "\n")


def pull(
    name: Annotated[str, typer.Argument(help="Name, Hub id or .gguf file.")],
    *,
    output: OutputOptions,
) -> None:
    """Fetch a model, so that it works offline."""
    from lmi_cli.models.store import pull as fetch

    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        files = fetch(name, progress=progress.bytes)
    sys.stdout.write(one_line(str(files.folder)) + "\n")


def remove(name: Annotated[str, typer.Argument(help="Name of a cached model.")]) -> None:
    """Delete a model from the cache."""
    from lmi_cli.models.store import remove as delete

    freed = delete(name)
    sys.stdout.write(one_line(f"removed {name}, {freed / 2**20:,.0f} MiB freed") + "\n")


app.command("list")(deferred(list_models))
app.command("pull")(deferred(pull))
app.command("rm")(deferred(remove))


@app.callback()
def default(context: typer.Context) -> object:
    """List the models that are known by name or cached."""
    return None if context.invoked_subcommand else list_models
