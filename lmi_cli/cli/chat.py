"""``lmi chat``: a conversation about documents that are read once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import closing
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

_HELP = """/evidence     show the passages behind the last answer
/save FILE    save the reading to a state file
/new          forget the conversation, but not the documents
/quit         end the conversation, as the end of the input does"""


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Request):
    """Options of ``lmi chat``."""

    panels: ClassVar[tuple[str, ...]] = READS

    arguments: list[str] | None = argument("SOURCE...", "Files, folders or a state file.")


def command(request: ChatRequest) -> None:
    """Hold a conversation about documents; questions come from standard input, one per line."""
    if not request.arguments or "-" in request.arguments:
        raise UsageError(
            "chat reads questions from standard input, so its sources must be files or folders",
            hint="lmi read - -o notes.lmi saves piped text; lmi chat notes.lmi then takes it",
        )
    if request.dry_run:
        dry_run("chat", request, request.arguments)
        return
    with Session(request) as session:
        opened, reading, options = session.open_reading(request.arguments)
    from lmi_cli.tasks.asking import Asker

    asker = Asker(opened.loaded, reading, options)
    for line in closing.work_lines(opened, reading.report(), reading.timing()):
        session.say(line)
    session.say("type a question, or /help")
    conversation = _Conversation(opened.loaded, asker, session)
    while sys.stdin is not None:
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
        except LmiError as error:  # the conversation goes on
            message(f"lmi: {error.message}")


class _Conversation:
    """The turns so far, and the commands that act on them."""

    def __init__(self, model: "Loaded", asker: "Asker", session: Session) -> None:
        self._model = model
        self._asker = asker
        self._session = session
        self._turns: list[tuple[str, str]] = []
        self._last: Answer | None = None
        self._asked = 0

    def ask(self, question: str) -> None:
        """Answer a question, streaming the answer to stdout."""
        sink = Output(None)
        task = self._asker.ask(question, self._asked, self._turns)
        with self._session as session:
            self._last = session.follow(
                task, "going through the parts", lambda delta: sink.write(delta.text)
            )
        self._turns.append((question, self._last.answer))
        self._asked += 1
        sink.end_line()
        for text in closing.prompt_lines(self._last):
            message(text)

    def obey(self, line: str) -> bool:
        """Carry out a command; return whether the conversation continues."""
        name, _, argument = line.partition(" ")
        match name:
            case "/quit" | "/exit":
                return False
            case "/new":
                self._turns.clear()
            case "/evidence":
                last, report = self._last, self._asker.reading.report()
                lines = closing.evidence_lines(last, report) if last else []
                for text in lines or ["there is no evidence"]:
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
