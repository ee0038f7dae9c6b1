"""``lmi qa``: questions about documents."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lmi_cli.cli.answering import answer_and_print
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.request import READS, Request
from lmi_cli.cli.session import piped_source
from lmi_cli.errors import UsageError

QUESTIONS = Panel("Questions")


@dataclass(frozen=True, kw_only=True)
class QARequest(Request):
    """What ``lmi qa`` is asked for."""

    panels: ClassVar[tuple[str, ...]] = READS

    arguments: list[str] | None = argument(
        "SOURCE... QUESTION", "Files, folders, a state file, or - for standard input; the question."
    )
    # Typer would cut the value of a variable into words.
    question: list[str] | None = QUESTIONS(
        "--question -q TEXT", "A question (repeatable).", envvar=False
    )
    questions: Path | None = QUESTIONS("--questions FILE", "A file with a question on each line.")


def command(request: QARequest) -> None:
    """Answer questions about documents of any length, which are read once."""
    asked = list(request.question or [])
    if not asked and (preset := os.environ.get("LMI_QUESTION")):
        asked = [preset]
    paths, asked = split_arguments(request.arguments or [], asked, request.questions)
    answer_and_print("qa", request, paths, asked)


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
