"""``lmi read``: read documents once, into a state file that later commands take as their source."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import closing, envelope
from lmi_cli.cli.arguments import argument
from lmi_cli.cli.choices import (
    memory_choice,
    prompts_of,
    reading_request,
    require_reading,
)
from lmi_cli.cli.console import Output, one_line
from lmi_cli.cli.dry_run import dry_run
from lmi_cli.cli.request import GENERATION, MEMORY, READS, REREADING, Request
from lmi_cli.cli.session import (
    Session,
    open_sources,
    piped_source,
    require_target,
    require_whole_input,
    state_file,
)
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from lmi_cli.tasks.reading import Reading

_STORES = {"index": ("index",), "store": ("store",), "both": ("index", "store")}


@dataclass(frozen=True, kw_only=True)
class ReadRequest(Request):
    """Options of ``lmi read``."""

    panels: ClassVar[tuple[str, ...]] = tuple(panel for panel in READS if panel != GENERATION)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream", "rank", *REREADING)

    arguments: list[str] | None = argument("SOURCE...", "Files, folders, or - for standard input.")
    keep: str | None = MEMORY("--keep NAME", "What to keep of each token: index, store or both.")
    append: Path | None = MEMORY("--append FILE", "Add the sources to this state file.")


def command(request: ReadRequest) -> None:
    """Read documents once, into a state file that qa, chat and summarize take as their source.

    To continue an interrupted reading, run the same command again.
    """
    paths = request.arguments or [piped_source()]
    require_reading(request)
    if state_file(paths) is not None:
        raise UsageError(
            f"{paths[0]} is a state file, so it has been read", hint=f"lmi qa {paths[0]} QUESTION"
        )
    if request.dry_run:
        if request.append is not None:
            raise UsageError(
                "--dry-run forecasts only a reading from the start, not --append",
                hint=f"lmi inspect {request.append} shows what is in the file",
            )
        dry_run("read", replace(request, output=None), paths, keep=request.keep or "index")
        return
    target = request.output or request.append
    if target is None:
        raise UsageError("no state file to write", hint="name it with -o FILE.lmi")
    if request.append is not None and state_file([str(request.append)]) is None:
        raise UsageError(f"--append {request.append}: not a state file")
    corpus = open_sources(paths, request, follows=request.append is not None)
    require_target(target)
    memory_choice(request, request.keep or "index")  # checked before a model is loaded
    with Session(request) as session:
        earlier: Reading | None = None
        if request.append is not None:
            keep = None if request.keep is None else _STORES[request.keep]
            opened, earlier = session.open_state_file(request.append, keep=keep)
        else:
            opened = session.load()
        from lmi_cli.tasks import statefile
        from lmi_cli.text.stream import TokenStream

        model = opened.loaded
        wanted = reading_request(
            session.request,
            prompts_of(request, model.known),
            session.chunk(opened) if earlier is None else earlier.plan.chunk,
            request.keep or "index",
        )
        stream = TokenStream(corpus, model.tokenizer)
        reading = session.follow(
            statefile.read_into(model, stream, wanted, target, behind=earlier), "reading"
        )
        require_whole_input(reading.sources, reading.skipped, request)
        size = statefile.finish(model, reading, target)
        report, timing = reading.report(), reading.timing()
        if request.json:
            written = {
                "path": str(target),
                "bytes": size,
                "kept": list(reading.plan.kept),
                "indexed_tokens": report.indexed_tokens,
            }
            text = envelope.dump_reading("read", opened, report, timing, state_file=written)
            Output(None).write(text)
        kept = ", ".join(reading.plan.kept) or "no index"
        session.say(
            f"{one_line(str(target))}: {report.document_tokens:,} tokens, "
            f"{size / 2**20:,.1f} MiB ({kept})"
        )
        for line in closing.work_lines(opened, report, timing):
            session.say(line)
