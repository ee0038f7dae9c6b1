"""``lmi eval``: questions of data sets and of one's own, asked by one method or by several."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lmi_cli import __version__
from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.choices import (
    answer_options,
    compared,
    method_choice,
    prompts_of,
    reading_request,
    require_no_method,
    sampling_of,
)
from lmi_cli.cli.console import Output, require_writable, write_file
from lmi_cli.cli.eval_files import record_files
from lmi_cli.cli.eval_table import results_rows, results_table, tasks_json, tasks_table
from lmi_cli.cli.request import (
    GENERATION,
    MEMORY,
    MESSAGES,
    METHOD,
    MODEL,
    OUTPUT,
    PROCESSES,
    SOURCES,
    Request,
)
from lmi_cli.cli.rows import csv_option, jsonl_option, write_row_files
from lmi_cli.cli.session import Opened, Session, open_sources, require_whole_input
from lmi_cli.cli.sharing import done_by_others, joined, require_files
from lmi_cli.engine import ANSWER_TOKENS
from lmi_cli.errors import UsageError
from lmi_cli.processes import Processes

if TYPE_CHECKING:
    from lmi_cli.evaluation.files import EvalTask
    from lmi_cli.evaluation.results import TaskFigures
    from lmi_cli.evaluation.words import WordsFile
    from lmi_cli.tasks.eval_report import EvalReport
    from lmi_cli.tasks.evaluate import EvalRequest as Questions

RECORDS = Panel("Records")
_OWN = "own"


@dataclass(frozen=True, kw_only=True)
class EvalCommandRequest(Request):
    """Options of ``lmi eval``."""

    panels: ClassVar[tuple[str, ...]] = (
        SOURCES, MODEL, METHOD, MEMORY, GENERATION, PROCESSES, OUTPUT, MESSAGES
    )  # fmt: skip
    omitted: ClassVar[tuple[str, ...]] = (
        "include", "exclude", "no_gitignore", "include_secrets", "max_file_size", "show_prompt",
        "no_stream",
    )  # fmt: skip

    arguments: list[str] | None = argument(
        "TASK|FILE...",
        "Files of records, folders with such files, names of tasks in --data, or - for standard "
        "input.",
    )
    data: Path | None = RECORDS("--data FOLDER", "Folder with the files of the named tasks.")
    named: str | None = RECORDS(
        "--as NAME", "Name of the task, in place of what the records or the file say."
    )
    prompts: str | None = RECORDS(
        "--prompts FILE",
        "Words of the prompts by task, as in LongBench's dataset2prompt.json; own asks as qa does.",
    )
    no_chat_template: bool = RECORDS(
        "--no-chat-template", "Leave prompts as they are, without the model's chat template.", False
    )
    compare: str | None = RECORDS(
        "--compare NAME,...", "Methods to answer by, side by side, instead of --method."
    )
    limit: int | None = RECORDS("--limit N", "Ask only the first N questions of each task.")
    predictions: Path | None = RECORDS(
        "--predictions FOLDER",
        "Keep each answer there, and the results; an interrupted run goes on from it.",
    )
    csv: Path | None = csv_option(RECORDS, "a row for each task, method and metric")
    jsonl: Path | None = jsonl_option(RECORDS, "a row for each task, method and metric")
    max_new_tokens: int = RECORDS(
        "--max-new-tokens -n N", "Longest answer, in tokens; 0 is that of the data set.", 0
    )


def command(request: EvalCommandRequest) -> None:
    """Answer questions of LongBench and similar data sets, or your own, and score the answers."""
    with joined(request) as (own, processes):
        _evaluate(own, processes)


def _evaluate(request: EvalCommandRequest, processes: Processes) -> None:
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit {request.limit}: the smallest is 1")
    if request.max_new_tokens < 0:
        raise UsageError(f"--max-new-tokens {request.max_new_tokens}: the smallest is 0")
    requests = _requests(request)
    for each in requests:
        require_no_method(each)
    sampling_of(requests[0])
    sink = Output(request.output)
    require_writable(request.output, request.csv, request.jsonl, sources=request.arguments or [])
    _require_no_file(request.predictions)
    require_files(request, request.arguments or [])
    files = record_files(request.arguments or [], request.data, request.named)
    from lmi_cli.evaluation.files import read_tasks

    tasks = read_tasks(files)
    if request.dry_run:
        if request.json:
            listed = tasks_json(tasks, request.limit)
            sink.write(envelope.dump("eval", dry_run=True, tasks=listed))
        else:
            sink.write(tasks_table(tasks, request.limit))
        sink.close()
        return
    words = _words(request.prompts, tasks)
    if done_by_others(request):
        return
    with Session(request) as session:
        for line in _remarks(request, tasks, words):
            session.say(line)
        with processes.first():
            opened = session.load()
        figures: dict[str, dict[str, TaskFigures]] = {}
        results: dict[str, dict[str, Any]] = {}
        for each in _suited(requests, opened):
            name = method_choice(each).name
            tokens = request.max_new_tokens
            report, found = _run(session, each, name, opened, tasks, words, tokens, processes)
            figures[name], results[name] = found
            for line in _closing(name, report):
                session.say(line)
    if processes.rank:
        return
    if request.json:
        from lmi_cli.evaluation.results import differences

        sink.write(_as_json(opened, results, differences(figures)))
    else:
        sink.write(results_table(tasks, figures))
    sink.close()
    write_row_files(request.csv, request.jsonl, results_rows(tasks, figures))


def _require_no_file(folder: Path | None) -> None:
    try:
        if folder is not None and folder.is_file():
            raise UsageError(f"{folder} is a file", hint="name a folder")
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}", hint="name a folder") from None


def _requests(request: EvalCommandRequest) -> list[EvalCommandRequest]:
    """The request for each method, with the usual length of answers where none is given."""
    usual = replace(request, max_new_tokens=request.max_new_tokens or ANSWER_TOKENS)
    if request.compare is None:
        return [usual]
    return compared(usual, request.compare)


def _suited(requests: Sequence[EvalCommandRequest], opened: Opened) -> list[EvalCommandRequest]:
    """The requests with the method by which the model reads by default, if none was asked for.

    Raises:
        ModelError, UsageError: A method is not for this model; said before any text is read.
    """
    from lmi_cli.tasks.method_for import chosen, method_for

    known, suited = opened.loaded.known, []
    for each in requests:
        choice = method_choice(each)
        method_for(known, choice, known.facts.trained_length, 0)
        name = chosen(known, choice).name
        suited.append(each if name == choice.name else replace(each, method=name))
    return suited


def _words(prompts: str | None, tasks: "Sequence[EvalTask]") -> "WordsFile | None":
    """The words that the user gave, if any; checked for all tasks, as are libraries of metrics.

    Raises:
        UsageError: A task needs words or a library that is not there.
    """
    from lmi_cli.evaluation.metrics.table import require_libraries
    from lmi_cli.evaluation.words import WordsFile, words_for

    words = None if prompts in (None, _OWN) else WordsFile(Path(str(prompts)))
    for task in tasks:
        require_libraries(task.name, task.settings)
        if task.form.complete:
            continue
        if words is not None:
            prompt = words.require(task.form.words_name(task.name))
            for item in task.items:
                words_for(prompt, item)
            continue
        if prompts is None and task.form.published is not None:
            raise UsageError(
                f"{task.name} is asked in published words, which have to be given",
                hint=f"--prompts FILE takes them from {task.form.published}; --prompts {_OWN} asks "
                "as lmi qa does",
            )
        for item in task.items:
            if not item.question.strip():
                raise UsageError(
                    f"{item.where} asks no question of its own",
                    hint="--prompts FILE gives the words of such a task",
                )
    return words


def _remarks(
    request: EvalCommandRequest, tasks: "Sequence[EvalTask]", words: "WordsFile | None"
) -> list[str]:
    """What a user should know before anything is answered, one sentence each."""
    lines = []
    names = {task.form.name for task in tasks if task.form.verbatim and not task.form.complete}
    if words is None and names:
        lines.append(
            f"{', '.join(sorted(names))}: asked in the words of lmi qa, so scores cannot be "
            "compared with published ones (--prompts FILE gives other words)"
        )
    if unscored := [task.name for task in tasks if not task.settings.metrics]:
        lines.append(f"{', '.join(unscored)}: there is no metric here for the answers")
    if request.predictions is None:
        lines.append("answers are not kept: with --predictions FOLDER, an interrupted run goes on")
    return lines


def _run(
    session: Session,
    request: EvalCommandRequest,
    name: str,
    opened: Opened,
    tasks: "Sequence[EvalTask]",
    words: "WordsFile | None",
    given_tokens: int,
    processes: Processes,
) -> "tuple[EvalReport, tuple[dict[str, TaskFigures], dict[str, Any]]]":
    """Answer by one method; return what was done, and the figures, which are also written."""
    from lmi_cli.evaluation.predictions import Predictions, locked
    from lmi_cli.evaluation.results import figures_of, results_object, with_earlier
    from lmi_cli.tasks.evaluate import answer_tokens, evaluate, limited

    started = time.monotonic()
    folder = None if request.predictions is None else request.predictions / name
    run = _identity(session, request, name, opened, words, given_tokens)
    questions = _questions(session, request, opened, words, given_tokens)
    with locked(None if processes.rank else folder):
        with processes.first():
            predictions = Predictions(folder, run)
        task = evaluate(opened.loaded, tasks, questions, predictions, processes)
        report = session.follow(task, name)
    asked = {task.name: len(limited(task, request.limit)) for task in tasks}
    figures = {
        task.name: figures_of(task, report.predictions[task.name], range(asked[task.name]))
        for task in tasks
    }
    results = results_object(
        tasks,
        figures,
        asked,
        {task.name: answer_tokens(task, questions) for task in tasks},
        {**run, "limit": request.limit},
        version=__version__,
        seconds=time.monotonic() - started,
    )
    if folder is not None and not processes.rank:
        path = folder / "results.json"
        require_writable(path)
        write_file(path, envelope.plain(with_earlier(results, path)).encode())
    return report, (figures, results)


def _questions(
    session: Session,
    request: EvalCommandRequest,
    opened: Opened,
    words: "WordsFile | None",
    answer_tokens: int,
) -> "Questions":
    from lmi_cli.tasks.evaluate import EvalRequest as Questions

    prompts = prompts_of(request, opened.loaded.known)
    return Questions(
        reading_request(request, prompts, session.chunk(opened)),
        answer_options(request, prompts),
        lambda paths: open_sources(paths, request),
        words,
        request.system,
        chat=not request.no_chat_template,
        answer_tokens=answer_tokens,
        limit=request.limit,
        require=lambda reading: require_whole_input(reading.sources, reading.skipped, request),
    )


def _identity(
    session: Session,
    request: EvalCommandRequest,
    name: str,
    opened: Opened,
    words: "WordsFile | None",
    answer_tokens: int,
) -> dict[str, Any]:
    """What the answers depend on, beside the records."""
    model = envelope.model_object(opened)
    kept = ("answer_from", "index", "no_memory", "memory_int8", "system", "no_chat_template")
    sampling = envelope.sampling_object(request)
    return {
        "lmi_version": __version__,
        "model": {key: model[key] for key in ("id", "identity", "dtype", "quantize")},
        "method": {"name": name, **request.given},
        "options": {key: getattr(request, key) for key in kept} | {"chunk": session.chunk(opened)},
        "sampling": {
            **sampling,
            "max_new_tokens": request.max_new_tokens,
            "data_set_lengths": not answer_tokens,
        },
        "prompts": _OWN if words is None else words.sha256,
    }


def _closing(name: str, report: "EvalReport") -> list[str]:
    """What this start has done, in one line."""
    if not report.asked:
        return [f"{name}: all questions had been answered before"]
    forms = {
        "fits": "read whole",
        "stream": "read as a stream",
        "truncated": "truncated",
        "parts": "read part by part with each question",
    }
    texts = ", ".join(f"{count:,} {forms[form]}" for form, count in report.forms.items())
    bases = ", ".join(f"{count:,} from {base}" for base, count in report.answered_from.items())
    seconds, speed = report.timing.prefill_s, report.timing.prefill_tok_per_s or 0.0
    each = end = ""
    if report.processes > 1:
        each, end = " each", f", the time of {report.processes} processes together"
    return [
        f"{name}: texts: {texts}; answers: {bases}; read {report.read_tokens:,} tokens in "
        f"{seconds:.1f} s ({speed:,.0f} tok/s{each}), wrote {report.generated:,} in "
        f"{report.timing.decode_s:.1f} s{end}"
    ]


def _as_json(
    opened: Opened, results: dict[str, dict[str, Any]], differences: dict[str, dict[str, Any]]
) -> str:
    lm = opened.loaded.lm
    return envelope.dump(
        "eval",
        model=envelope.model_object(opened),
        memory=envelope.memory_object(lm.weights_bytes, None, None, lm.device_peak_bytes()),
        methods=results,
        differences=differences,
    )
