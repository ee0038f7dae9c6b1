"""``lmi qa``: questions about documents."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lmi_cli.cli.answering import answer_and_print
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.choices import lines_of
from lmi_cli.cli.request import READS, Request
from lmi_cli.cli.session import piped_source
from lmi_cli.errors import UsageError

QUESTIONS = Panel("Questions")


@dataclass(frozen=True, kw_only=True)
class QARequest(Request):
    """Options of ``lmi qa``."""

    panels: ClassVar[tuple[str, ...]] = READS

    arguments: list[str] | None = argument(
        "SOURCE... QUESTION",
        "Files, folders, a state file, or - for standard input; then the question.",
    )
    # Typer would split the value of an environment variable into words.
    question: list[str] | None = QUESTIONS(
        "--question -q TEXT", "A question (repeatable).", envvar=False
    )
    questions: Path | None = QUESTIONS("--questions FILE", "A file with one question per line.")


def command(request: QARequest) -> None:
    """Answer questions about documents of any length, which are read once."""
    asked = list(request.question or [])
    if not asked and (preset := os.environ.get("LMI_QUESTION")):
        asked = [preset]
    paths, asked = split_arguments(request.arguments or [], asked, request.questions)
    answer_and_print("qa", request, paths, asked)


def split_arguments(
    arguments: list[str], questions: list[str], file: Path | None, command: str = "qa"
) -> tuple[list[str], list[str]]:
    """Split the arguments of a command into sources and questions.

    Without ``-q`` or ``--questions``, the last argument is the question.

    Raises:
        UsageError: There is no question, or what stands in its place is a source.
    """
    paths, asked = list(arguments), list(questions)
    if file is not None:
        lines = [line.strip() for line in lines_of(file, "questions file") if line.strip()]
        if not lines:
            raise UsageError(f"questions file {file} contains no question")
        asked += lines
    if not asked:
        if not paths:
            raise UsageError(
                "no question", hint=f'try: lmi {command} paper.pdf "Which dataset was used?"'
            )
        last = paths.pop()
        if last == "-" or _exists(last):
            raise UsageError(
                f"the last argument is the question, but {last!r} is a source",
                hint=f'try: lmi {command} {" ".join([*paths, last])} "Your question?"',
            )
        asked = [last]
    if not all(text.strip() for text in asked):
        raise UsageError("a question is empty")
    return paths or [piped_source()], asked


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):  # a long question is not a path
        return False
