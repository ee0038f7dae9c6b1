"""``lmi chat``: a conversation about documents that are read once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import summary
from lmi_cli.cli.arguments import argument
from lmi_cli.cli.console import Output, message
from lmi_cli.cli.dry_run import dry_run
from lmi_cli.cli.request import READS, Request
from lmi_cli.cli.session import Session, require_target
from lmi_cli.errors import LmiError, UsageError

if TYPE_CHECKING:
    from lmi_cli.models.load import Loaded
    from lmi_cli.tasks.asking import Asker
    from lmi_cli.tasks.report import Answer

_HELP = """/evidence     show where the last answer comes from
/save FILE    write what was read to a state file
/new          forget the conversation, but not the document
/quit         end (as does the end of input)"""


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Request):
    """What ``lmi chat`` is asked for."""

    panels: ClassVar[tuple[str, ...]] = READS

    arguments: list[str] | None = argument("SOURCE...", "Files, folders or a state file.")


def command(request: ChatRequest) -> None:
    """Talk about documents; questions come from standard input, one on each line."""
    if not request.arguments or "-" in request.arguments:
        raise UsageError(
            "chat takes its questions from standard input, so it needs files as sources",
            hint="lmi read - -o notes.lmi reads a pipe; then lmi chat notes.lmi",
        )
    if request.dry_run:
        dry_run("chat", request, request.arguments)
        return
    with Session(request) as session:
        opened, reading, options = session.open_reading(request.arguments)
    from lmi_cli.tasks.asking import Asker

    asker = Asker(opened.loaded, reading, options)
    for line in summary.work_lines(opened, reading.report(), reading.timing()):
        session.say(line)
    session.say("type a question, or /help")
    _talk(_Conversation(opened.loaded, asker), request)


class _Conversation:
    """The turns so far, and the commands on them."""

    def __init__(self, model: "Loaded", asker: "Asker") -> None:
        self._model = model
        self._asker = asker
        self._turns: list[tuple[str, str]] = []
        self._last: Answer | None = None
        self._asked = 0

    def ask(self, question: str) -> None:
        """Answer a question on stdout, as it comes."""
        from lmi_cli.tasks.events import follow

        sink = Output(None)
        answer = follow(
            self._asker.ask(question, self._asked, self._turns),
            lambda delta: sink.write(delta.text),
        )
        self._last = answer
        self._turns.append((question, answer.answer))
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
                last, report = self._last, self._asker.reading.report()
                lines = summary.evidence_lines(last, report) if last else []
                for text in lines or ["no evidence"]:
                    message(text)
            case "/save" if argument.strip():
                from lmi_cli.tasks.statefile import save

                target = Path(argument.strip())
                require_target(target)
                size = save(self._model, self._asker.reading, target)
                message(f"{target}: {size / 2**20:,.1f} MiB")
            case _:
                for text in _HELP.splitlines():
                    message(text)
        return True


def _talk(conversation: _Conversation, request: Request) -> None:
    if sys.stdin is None:
        return
    while True:
        if sys.stdin.isatty() and not request.quiet and sys.stderr is not None:
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
