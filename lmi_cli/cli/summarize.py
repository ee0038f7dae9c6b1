"""``lmi summarize``: the gist of documents."""

from typing import Annotated

import typer

from lmi_cli.cli.answering import answer_and_print
from lmi_cli.cli.options import (
    GenerationOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)
from lmi_cli.cli.session import piped_source


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files, folders, or - for stdin."),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    generation: GenerationOptions,
    output: OutputOptions,
) -> None:
    """Summarise documents in one reading."""
    from lmi_cli.tasks.summarize import SUMMARY_QUESTION

    answer_and_print(
        "summarize",
        arguments or [piped_source()],
        [SUMMARY_QUESTION],
        source=source,
        model=model,
        method=method,
        memory=MemoryOptions(no_memory=True),  # a summary is of all of it, not of passages
        generation=generation,
        output=output,
        instruction=True,
    )
