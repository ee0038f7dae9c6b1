"""What ``qa`` and ``summarize`` share: run, stream the answers, report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lmi_cli.cli import envelope, summary
from lmi_cli.cli.console import Output
from lmi_cli.cli.options import (
    GenerationOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import (
    Opened,
    answer_options,
    method_choice,
    open_model,
    open_sources,
    require_whole_input,
    say,
)


def answer_and_print(
    command: str,
    paths: Sequence[str],
    questions: Sequence[str],
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    generation: GenerationOptions,
    output: OutputOptions,
) -> None:
    """Read ``paths``, answer ``questions``, print answers or JSON, then the report."""
    choice, asking = method_choice(method), answer_options(generation)
    corpus = open_sources(paths, source)
    sink = Output(output.output)
    streaming = not (output.json or output.no_stream or output.output)
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened = open_model(model, output, progress)
        from lmi_cli.tasks.events import Delta, Note, Progress
        from lmi_cli.tasks.qa import QAReport, answer
        from lmi_cli.tasks.report import Answer

        report: QAReport | None = None
        heading = len(questions) > 1
        started = -1
        for event in answer(opened.loaded, corpus, questions, choice, asking, chunk=method.chunk):
            match event:
                case Progress(tokens, total):
                    progress.show("reading", tokens, total)
                case Note(text):
                    progress.clear()
                    say(text, output)
                case Delta(index, text):
                    progress.clear()
                    if streaming and index != started:
                        sink.write(_heading(questions[index], index) if heading else "")
                        started = index
                    if streaming:
                        sink.write(text)
                case Answer():
                    progress.clear()
                    if not (streaming or output.json):
                        index = list(questions).index(event.question)
                        sink.write(_heading(event.question, index) if heading else "")
                        sink.write(event.answer)
                    if not output.json:
                        sink.end_line()
                case QAReport():
                    report = event
        if report is None:
            raise RuntimeError("the task ended without a report")
        require_whole_input(corpus, output)
        if output.json:
            sink.write(_as_json(command, opened, report, generation))
        sink.close()
        for line in summary.reading_lines(
            opened, report.reading, report.timing, report.answers[0].visible
        ):
            say(line, output)
        for number, given in enumerate(report.answers, 1):
            if given.finish_reason != "stop":
                say(f"answer {number} ended by {_REASONS[given.finish_reason]}", output)


_REASONS = {
    "length": "its length limit (-n)",
    "loop": "repeating itself",
}


def _heading(question: str, index: int) -> str:
    return ("\n" if index else "") + f"# {question}\n"


def _as_json(command: str, opened: Opened, report: Any, generation: GenerationOptions) -> str:
    reading = report.reading
    seen = report.answers[0].visible
    result: dict[str, Any] = {"answers": [asdict(given) for given in report.answers]}
    if command == "summarize":
        result = {"summary": report.answers[0].answer, **asdict(report.answers[0])}
        del result["answer"], result["question"]
    return envelope.dump(
        command,
        model=envelope.model_object(opened),
        **envelope.reading_objects(reading),
        tokens={
            "read": reading.document_tokens,
            "visible": seen.sinks + seen.window,
            "stored": 0,
            "generated": sum(given.tokens for given in report.answers),
        },
        sampling=envelope.sampling_object(generation),
        timing=envelope.timing_object(opened, report.timing),
        memory=envelope.memory_object(opened, reading.cache_bytes),
        **result,
    )
