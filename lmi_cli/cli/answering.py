"""The run that ``qa`` and ``summarize`` share: read, stream the answers, report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmi_cli.cli import closing, envelope
from lmi_cli.cli.console import Output, require_writable
from lmi_cli.cli.dry_run import dry_run
from lmi_cli.cli.request import Request
from lmi_cli.cli.session import Opened, Session

if TYPE_CHECKING:
    from lmi_cli.tasks.qa import QAReport


def answer_and_print(
    command: str,
    request: Request,
    paths: Sequence[str],
    questions: Sequence[str],
    *,
    label: str | None = None,
) -> None:
    """Read ``paths``, answer ``questions``, print the answers or JSON, then the report.

    ``label`` is as for :func:`lmi_cli.cli.choices.prompts_of`; an instruction needs none.
    """
    if request.dry_run:
        dry_run(command, request, paths, questions, label=label)
        return
    require_writable(request.output, sources=paths)
    sink = Output(request.output)
    streaming = not (request.json or request.no_stream or request.output)
    with Session(request) as session:
        opened, reading, options = session.open_reading(paths, questions, label=label)
        from lmi_cli.tasks.asking import Asker
        from lmi_cli.tasks.events import Delta
        from lmi_cli.tasks.qa import answer
        from lmi_cli.tasks.report import Answer

        printer = _Printer(sink, questions, streaming=streaming)

        def show(event: Delta | Answer) -> None:
            if isinstance(event, Delta):
                printer.add(event.text)
                return
            if not request.json:
                printer.end(event.answer)
            for line in closing.prompt_lines(event) + closing.evidence_lines(
                event, reading.report()
            ):
                session.say(line)

        asker = Asker(opened.loaded, reading, options)
        report = session.follow(answer(asker, questions), "answering", show)
        if request.json:
            sink.write(_as_json(command, opened, report, request))
        sink.close()
        for line in closing.reading_lines(opened, report.reading, report.timing, report.answers):
            session.say(line)


class _Printer:
    """Prints answers; the text is the same whether they are streamed or printed when complete."""

    def __init__(self, sink: Output, questions: Sequence[str], *, streaming: bool) -> None:
        self._sink = sink
        self._streaming = streaming
        first, *others = questions
        self._headings = [f"# {first}\n", *(f"\n# {text}\n" for text in others)] if others else [""]
        self._started = False

    def add(self, text: str) -> None:
        """Take the next piece of the current answer."""
        if self._streaming:
            self._start()
            self._sink.write(text)

    def end(self, answer: str) -> None:
        """Finish the current answer."""
        self._start()
        if not self._streaming:
            self._sink.write(answer)
        self._sink.end_line()
        self._started = False

    def _start(self) -> None:
        if not self._started:
            self._sink.write(self._headings.pop(0))
        self._started = True


def _as_json(command: str, opened: Opened, report: "QAReport", request: Request) -> str:
    visible = report.answers[0].visible
    result: dict[str, Any] = {"answers": [asdict(answer) for answer in report.answers]}
    if command == "summarize":
        (only,) = result["answers"]
        names = ("finish_reason", "visible", "answered_from", "evidence", "prompt")
        result = {"summary": only["answer"]} | {name: only[name] for name in names}
    return envelope.dump_reading(
        command,
        opened,
        report.reading,
        report.timing,
        generated=sum(answer.tokens for answer in report.answers),
        seen=visible.sinks + visible.window + visible.reread,
        sampling=envelope.sampling_object(request),
        **result,
    )
