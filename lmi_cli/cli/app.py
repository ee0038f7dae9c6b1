"""The ``lmi`` program as Typer sees it: its commands, and the possible outcomes of parsing."""

from typing import Annotated

import typer

from lmi_cli import __version__
from lmi_cli.cli import (
    bench,
    chat,
    config,
    find,
    inspect,
    models,
    passkey,
    perplexity,
    qa,
    read,
    summarize,
)
from lmi_cli.cli import eval as evaluation
from lmi_cli.cli.arguments import parsed
from lmi_cli.cli.console import Output, message
from lmi_cli.cli.settings import Settings

_EPILOG = """\b
Examples:
  lmi qa paper.pdf "Which dataset was used?"
  cat notes.txt | lmi summarize -
  lmi perplexity book.txt --length 200k

Every option can be set by an environment variable (LMI_MODEL for --model) or in a
configuration file; lmi config shows what holds.
"""


def _version(wanted: bool) -> None:
    if wanted:
        Output(None).write(f"lmi {__version__}\n")
        raise typer.Exit


def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read text of any length with a local language model, and ask it questions."""
    if context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            message(line)
        raise typer.Exit(2)


def build() -> typer.Typer:
    """The program with all its commands; the methods' options are read from ``METHODS`` now."""
    app = typer.Typer(
        name="lmi",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_EPILOG,
    )
    app.callback(invoke_without_command=True)(root)
    commands = (qa, chat, find, read, summarize, perplexity, inspect, passkey, evaluation, bench)
    for module in commands:
        app.command(module.__name__.rpartition(".")[2])(parsed(module.command))
    app.add_typer(models.app, name="models")
    app.command("config")(parsed(config.command))
    return app


def run() -> None:
    """Parse the command line and run the command.

    Raises:
        SystemExit: The command line cannot be parsed, or asks for help.
    """
    program = typer.main.get_command(build())
    try:
        job = program(prog_name="lmi", standalone_mode=False, obj=Settings(program))
    except typer.TyperException as error:  # usage errors of the parser itself
        context, option = getattr(error, "ctx", None), getattr(error, "param", None)
        path = "lmi" if context is None else context.command_path
        place = ""
        if context is not None and option is not None:
            source = context.get_parameter_source(option.name)
            if source is not None and source.name == "ENVIRONMENT":
                place = f" ({option.opts[0]} is from {option.envvar})"
        message(f"lmi: {error.format_message()}{place}")
        message(f"     hint: {path} --help")
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer would report a failure
            raise BrokenPipeError from None
        raise
    if callable(job):
        job()
    elif job:
        raise SystemExit(job)
