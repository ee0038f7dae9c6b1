"""``lmi read``: read documents once, into a file that can be asked for ever."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmi_cli.cli import envelope, summary
from lmi_cli.cli.console import Output, one_line
from lmi_cli.cli.options import (
    GenerationOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
    option,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.session import (
    answer_options,
    memory_choice,
    method_choice,
    open_reading,
    open_sources,
    piped_source,
    require_target,
    require_whole_input,
    say,
    show_reading,
    state_file,
)
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from lmi_cli.cli.session import Opened
    from lmi_cli.tasks.reading import Reading


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files, folders, or - for stdin."),
    ] = None,
    keep: Annotated[
        str | None,
        option(
            "--keep",
            metavar="NAME",
            help="index (light), store (all keys and values) or both.",
            panel="Memory",
        ),
    ] = None,
    append: Annotated[
        Path | None,
        option(
            "--append",
            metavar="FILE",
            help="Go on behind what this state file holds.",
            panel="Memory",
        ),
    ] = None,
    *,
    source: SourceOptions,
    model: ModelOptions,
    method: MethodOptions,
    memory: MemoryOptions,
    output: OutputOptions,
) -> None:
    """Read documents once, into a state file: qa, chat and summarize take it as their source.

    A reading that was interrupted is gone on with by the same command.
    """
    paths = arguments or [piped_source()]
    if state_file(paths) is not None:
        raise UsageError(f"{paths[0]} has been read", hint=f"lmi qa {paths[0]} QUESTION")
    target = output.output or append
    if target is None:
        raise UsageError("no state file to write", hint="name it with -o FILE.lmi")
    if append is not None and state_file([str(append)]) is None:
        raise UsageError(f"--append {append}: not a state file")
    corpus = open_sources(paths, source, follows=append is not None)
    require_target(target)
    method_choice(method)  # what is wrong with it is said before a model is loaded
    remembered = memory_choice(memory, keep=keep or "index")
    asking = answer_options(GenerationOptions())
    with ProgressDisplay(quiet=output.quiet, verbose=output.verbose) as progress:
        opened, reading = open_reading(append, model, method, asking, remembered, output, progress)
        from lmi_cli.tasks import book

        begun = append is not None
        events = reading.read_on(corpus) if begun else book.read_book(reading, corpus, target)
        show_reading(events, output, progress)
        require_whole_input(reading.corpus, output)
        size = book.finish(reading, target)
        if output.json:
            Output(None).write(_as_json(opened, reading, target, size))
        report = reading.report()
        say(
            f"{one_line(str(target))}: {report.document_tokens:,} tokens, "
            f"{size / 2**20:,.1f} MiB ({', '.join(reading.kept) or 'no index'})",
            output,
        )
        for line in summary.work_lines(opened, report, reading.timing):
            say(line, output)


def _as_json(opened: "Opened", reading: "Reading", target: Path, size: int) -> str:
    report = reading.report()
    return envelope.dump(
        "read",
        model=envelope.model_object(opened),
        **envelope.reading_objects(report),
        tokens=envelope.tokens_object(
            report.document_tokens, generated=0, stored=report.stored_tokens
        ),
        sampling=None,
        timing=envelope.timing_object(opened, reading.timing),
        memory=envelope.memory_object(opened, report.cache_bytes, report.store_bytes),
        state_file={
            "path": str(target),
            "bytes": size,
            "kept": list(reading.kept),
            "indexed_tokens": report.indexed_tokens,
        },
    )
