"""``lmi chat``: a conversation about documents that are read once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmi_cli.cli import summary
from lmi_cli.cli.console import Output, message
from lmi_cli.cli.options import (
    GenerationOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import (
    answer_options,
    memory_choice,
    method_choice,
    open_reading,
    open_sources,
    require_target,
    require_whole_input,
    say,
    show_reading,
    state_file,
)
from lmi_cli.errors import LmiError, UsageError

if TYPE_CHECKING:
    from lmi_cli.tasks.reading import Reading
    from lmi_cli.tasks.report import Answer

_HELP = """/evidence     where the last answer comes from
/save FILE    write what was read to a state file
/new          forget the conversation, not the document
/quit         end (as does the end of input)"""


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files, folders or a state file."),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    memory: MemoryOptions,
    generation: GenerationOptions,
    output: OutputOptions,
) -> None:
    """Talk about documents: questions from standard input, one a line."""
    if not arguments or "-" in arguments:
        raise UsageError(
            "chat takes its questions from standard input, so it needs files as sources",
            hint="lmi read - -o notes.lmi reads a pipe; then lmi chat notes.lmi",
        )
    path = state_file(arguments)
    corpus = open_sources(arguments, source) if path is None else None
    method_choice(method)  # what is wrong with it is said before a model is loaded
    asking, remembered = answer_options(generation), memory_choice(memory)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened, reading = open_reading(path, model, method, asking, remembered, output, progress)
        if corpus is not None:
            show_reading(reading.read(corpus), output, progress)
    require_whole_input(reading.corpus, output)
    for line in summary.work_lines(opened, reading.report(), reading.timing):
        say(line, output)
    say("ask, or /help", output)
    _talk(_Conversation(reading), output)


class _Conversation:
    """The turns so far, and the commands on them."""

    def __init__(self, reading: "Reading") -> None:
        self._reading = reading
        self._turns: list[tuple[str, str]] = []
        self._last: Answer | None = None
        self._asked = 0

    def ask(self, question: str) -> None:
        """Answer a question on stdout, as it comes."""
        from lmi_cli.tasks.events import Delta

        sink = Output(None)
        self._reading.require_room([question])
        for event in self._reading.ask(question, self._asked, self._turns):
            if isinstance(event, Delta):
                sink.write(event.text)
            else:
                self._last = event
                self._turns.append((question, event.answer))
        self._asked += 1
        sink.end_line()
        sink.close()

    def obey(self, line: str) -> bool:
        """Carry out a command; whether the conversation goes on."""
        name, _, argument = line.partition(" ")
        match name:
            case "/quit" | "/exit":
                return False
            case "/new":
                self._turns.clear()
            case "/evidence":
                given = self._last
                lines = summary.evidence_lines(given, self._reading.report()) if given else []
                for text in lines or ["no evidence"]:
                    message(text)
            case "/save" if argument.strip():
                from lmi_cli.tasks.book import save

                target = Path(argument.strip())
                require_target(target)
                size = save(self._reading, target)
                message(f"{target}: {size / 2**20:,.1f} MiB")
            case _:
                for text in _HELP.splitlines():
                    message(text)
        return True


def _talk(conversation: _Conversation, output: OutputOptions) -> None:
    if sys.stdin is None:
        return
    while True:
        if sys.stdin.isatty() and not output.quiet and sys.stderr is not None:
            sys.stderr.write("> ")
            sys.stderr.flush()
        raw = sys.stdin.buffer.readline()
        if not raw:
            return
        line = raw.decode("utf-8", "replace").strip()
        try:
            if line.startswith("/"):
                if not conversation.obey(line):
                    return
            elif line:
                conversation.ask(line)
        except LmiError as error:  # the next question may be a better one
            message(f"lmi: {error.message}")
