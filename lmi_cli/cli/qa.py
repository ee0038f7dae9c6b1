"""``lmi qa``: questions about documents."""

import os
from pathlib import Path
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
    option,
)
from lmi_cli.cli.session import piped_source
from lmi_cli.errors import UsageError


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE... QUESTION", help="Files, folders, or - for stdin."),
    ] = None,
    question: Annotated[
        list[str] | None,
        option(
            "--question",
            "-q",
            metavar="TEXT",
            help="A question; may be repeated.",
            panel="Questions",
            envvar=False,  # Typer would cut its value into words
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        option(
            "--questions",
            metavar="FILE",
            help="A file with one question a line.",
            panel="Questions",
        ),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    memory: MemoryOptions,
    generation: GenerationOptions,
    output: OutputOptions,
) -> None:
    """Answer questions about documents of any length. They are read once."""
    if not question and (preset := os.environ.get("LMI_QUESTION")):
        question = [preset]
    paths, asked = split_arguments(arguments or [], question or [], questions)
    answer_and_print(
        "qa",
        paths,
        asked,
        source=source,
        model=model,
        method=method,
        memory=memory,
        generation=generation,
        output=output,
    )


def split_arguments(
    arguments: list[str], questions: list[str], questions_file: Path | None
) -> tuple[list[str], list[str]]:
    """Sources and questions among the arguments.

    Without ``-q`` or ``--questions`` the last argument is the question.

    Raises:
        UsageError: There is no question, no source, or the question is an existing path.
    """
    paths, asked = list(arguments), list(questions)
    if questions_file is not None:
        asked += _read_questions(questions_file)
    if not asked:
        if not paths:
            raise UsageError("no question", hint='try: lmi qa paper.pdf "Which dataset was used?"')
        last = paths.pop()
        if last == "-" or _exists(last):
            raise UsageError(
                f"the last argument is the question, and {last!r} is a source",
                hint=f'try: lmi qa {" ".join([*paths, last])} "Your question?"',
            )
        asked = [last]
    if not all(text.strip() for text in asked):
        raise UsageError("a question is empty")
    return paths or [piped_source()], asked


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):  # a long question is no path
        return False


def _read_questions(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"questions file {path}: {reason}") from error
    asked = [line.strip() for line in lines if line.strip()]
    if not asked:
        raise UsageError(f"questions file {path}: no question in it")
    return asked
