"""The ``lmi`` program: its commands and how it ends."""

import contextlib
import sys
from typing import Annotated

import typer

from lmi_cli import __version__
from lmi_cli.cli import models, passkey, perplexity, qa, runner, summarize
from lmi_cli.cli.console import one_line
from lmi_cli.cli.options import deferred

app = typer.Typer(
    name="lmi",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Read text of any length with a local language model, and ask it questions.",
    epilog=(
        'Examples:  lmi qa paper.pdf "Which dataset was used?"   |   '
        "cat notes.txt | lmi summarize -   |   lmi perplexity book.txt --length 200k"
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"lmi {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")
    ] = False,
) -> None:
    """Read text of any length with a local language model, and ask it questions."""


app.command("qa")(deferred(qa.command))
app.command("summarize")(deferred(summarize.command))
app.command("perplexity")(deferred(perplexity.command))
app.command("passkey")(deferred(passkey.command))
app.add_typer(models.app, name="models")


def main() -> None:
    """Entry point of the console script."""
    code = runner.run(_dispatch)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    sys.exit(code)


def _dispatch() -> None:
    try:
        job = app(standalone_mode=False)
    except typer.TyperException as error:  # usage errors of the parser itself
        path = "lmi --help"
        context = getattr(error, "ctx", None)
        if context is not None:
            path = f"{context.command_path} --help"
        sys.stderr.write(f"lmi: {one_line(error.format_message())}\n     hint: {path}\n")
        raise SystemExit(error.exit_code) from None
    if callable(job):
        job()
    elif job:
        raise SystemExit(job)
