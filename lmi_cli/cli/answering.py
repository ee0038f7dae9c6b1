"""What ``qa`` and ``summarize`` share: run, stream the answers, report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lmi_cli.cli import envelope, summary
from lmi_cli.cli.console import Output
from lmi_cli.cli.inspect import dry_run, show_book
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
    Opened,
    answer_options,
    memory_choice,
    method_choice,
    open_reading,
    open_sources,
    require_whole_input,
    say,
    state_file,
)


def answer_and_print(
    command: str,
    paths: Sequence[str],
    questions: Sequence[str],
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    memory: MemoryOptions,
    generation: GenerationOptions,
    output: OutputOptions,
    instruction: bool = False,
) -> None:
    """Read ``paths``, answer ``questions``, print answers or JSON, then the report.

    An ``instruction`` is asked in the place of a question, and not labelled as one.
    """
    path = state_file(paths)
    if source.dry_run and path is not None:
        show_book(path, output)
        return
    if source.dry_run:
        dry_run(
            command,
            paths,
            source=source,
            model=model,
            method=method,
            output=output,
            answer=generation.max_new_tokens,
        )
        return
    corpus = open_sources(paths, source) if path is None else None
    sink = Output(output.output)
    method_choice(method)  # what is wrong with it is said before a model is loaded
    asking, remembered = answer_options(generation, instruction=instruction), memory_choice(memory)
    streaming = not (output.json or output.no_stream or output.output)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened, reading = open_reading(path, model, method, asking, remembered, output, progress)
        from lmi_cli.tasks.events import Delta, Note, Progress
        from lmi_cli.tasks.qa import QAReport, answer
        from lmi_cli.tasks.report import Answer

        report: QAReport | None = None
        printed = _Printed(sink, questions, streaming=streaming, silent=output.json)
        answering = False
        for event in answer(reading, corpus, questions):
            if isinstance(event, Delta | Answer) and not answering:
                answering = True  # all has been read, nothing is printed yet
                progress.clear()
                require_whole_input(reading.corpus, output)
            match event:
                case Progress(tokens, total):
                    progress.show("reading", tokens, total)
                case Note(text):
                    progress.clear()
                    say(text, output)
                case Delta(_, text):
                    printed.add(text)
                case Answer():
                    printed.end(event.answer)
                    for line in summary.evidence_lines(event, reading.report()):
                        say(line, output)
                case QAReport():
                    report = event
        if report is None:
            raise RuntimeError("the task ended without a report")
        if output.json:
            sink.write(_as_json(command, opened, report, generation))
        sink.close()
        for line in summary.reading_lines(opened, report.reading, report.timing, report.answers):
            say(line, output)


class _Printed:
    """Answers as text; the same text whether they are streamed or printed when complete.

    Args:
        sink: Where they go.
        questions: Each heads its answer if there are several.
        streaming: Print the pieces as they come.
        silent: Print nothing.
    """

    def __init__(
        self, sink: Output, questions: Sequence[str], *, streaming: bool, silent: bool
    ) -> None:
        self._sink = sink
        self._questions = questions
        self._streaming = streaming
        self._silent = silent
        self._done = 0
        self._begun = False

    def add(self, text: str) -> None:
        """The next piece of the current answer."""
        if self._streaming:
            self._begin()
            self._sink.write(text)

    def end(self, answer: str) -> None:
        """The current answer is complete."""
        if not self._silent:
            self._begin()
            if not self._streaming:
                self._sink.write(answer)
            self._sink.end_line()
        self._done += 1
        self._begun = False

    def _begin(self) -> None:
        if not self._begun and len(self._questions) > 1:
            gap = "\n" if self._done else ""
            self._sink.write(f"{gap}# {self._questions[self._done]}\n")
        self._begun = True


def _as_json(command: str, opened: Opened, report: Any, generation: GenerationOptions) -> str:
    reading = report.reading
    seen = report.answers[0].visible
    answers = [asdict(given) for given in report.answers]
    result: dict[str, Any] = {"answers": answers}
    if command == "summarize":
        (given,) = answers
        result = {"summary": given["answer"]}
        result |= {
            name: given[name] for name in ("finish_reason", "visible", "answered_from", "evidence")
        }
    return envelope.dump(
        command,
        model=envelope.model_object(opened),
        **envelope.reading_objects(reading),
        tokens=envelope.tokens_object(
            reading.document_tokens,
            generated=sum(given.tokens for given in report.answers),
            visible=seen.sinks + seen.window + seen.reread,
            stored=reading.stored_tokens,
        ),
        sampling=envelope.sampling_object(generation),
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(opened, reading.cache_bytes, reading.store_bytes),
        **result,
    )
