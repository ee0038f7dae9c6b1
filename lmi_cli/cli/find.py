"""``lmi find``: the places that a question is about, without a word of the model."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmi_cli.cli import closing, envelope
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.console import Output, require_writable
from lmi_cli.cli.dry_run import dry_run
from lmi_cli.cli.qa import split_arguments
from lmi_cli.cli.request import GENERATION, READS, REREADING, Request
from lmi_cli.cli.rows import csv_option, jsonl_option, write_row_files
from lmi_cli.cli.session import Session
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from lmi_cli.tasks.report import Evidence, ReadingReport

PLACES = Panel("Places")

_MOST_PLACES = 1_000


@dataclass(frozen=True, kw_only=True)
class FindRequest(Request):
    """Options of ``lmi find``."""

    panels: ClassVar[tuple[str, ...]] = tuple(panel for panel in READS if panel != GENERATION)
    omitted: ClassVar[tuple[str, ...]] = (
        "no_stream",
        "no_memory",
        "answer_from",
        *REREADING,
    )

    arguments: list[str] | None = argument(
        "SOURCE... QUERY", "Files, folders, a state file, or - for standard input; then the query."
    )
    count: int = PLACES("--count -n N", "Number of places.", 5)
    context: int = PLACES(
        "--context -C N", "Show each passage whole, with N more on either side.", -1
    )
    files: bool = PLACES("--files", "One line a place, as editors read it: PATH:LINE: TEXT.", False)
    csv: Path | None = csv_option(PLACES, "the places")
    jsonl: Path | None = jsonl_option(PLACES, "the places")


def command(request: FindRequest) -> None:
    """Find the passages that a question is about, best first; the model writes nothing."""
    paths, (query,) = split_arguments(request.arguments or [], [], None, "find")
    if not 1 <= request.count <= _MOST_PLACES:
        raise UsageError(f"--count {request.count:,}: the range is 1 to {_MOST_PLACES:,}")
    if request.json and request.files:
        raise UsageError("--files cannot be combined with --json")
    if request.dry_run:
        dry_run("find", request, paths, [query])
        return
    require_writable(request.output, request.csv, request.jsonl)
    sink = Output(request.output)
    with Session(request) as session:
        opened, reading, options = session.open_reading(paths, [query], evidence=True)
        from lmi_cli.tasks.asking import Asker

        asker = Asker(opened.loaded, reading, options)
        ranked = asker.ranked(query)
        if not ranked:
            raise UsageError(
                "nothing can be found without an index",
                hint="the state file was written without one, or there are too few tokens",
            )
        found = asker.evidence(ranked, request.count, max(0, request.context))
        report = reading.report()
        if request.json:
            places = [asdict(item) for item in found]
            sink.write(
                envelope.dump_reading("find", opened, report, reading.timing(), evidence=places)
            )
        for item in () if request.json else found:
            if request.files:
                sink.write(_line(item))
            else:
                sink.write_marked(_shown(item, report, whole=request.context >= 0))
        sink.close()
        rows = [_row(rank, item) for rank, item in enumerate(found, 1)]
        write_row_files(request.csv, request.jsonl, rows)
        for line in closing.work_lines(opened, report, reading.timing()):
            session.say(line)
        if report.words:
            session.say("places were found by shared words alone, as the model has no attention")


def _row(rank: int, item: "Evidence") -> dict[str, object]:
    """A place as a row: the sentences as one text, and the path of its headings as another."""
    row = {"rank": rank, **asdict(item)}
    row["quotes"] = " ... ".join(_one_line(quote.text).strip() for quote in item.quotes)
    return row | {"headings": " > ".join(item.headings)}


def _line(item: "Evidence") -> str:
    """``PATH:LINE: TEXT``, or with a page where there are no lines."""
    first = item.quotes[0] if item.quotes else None
    line = item.line_start if first is None else first.line
    place = f"{line}:" if line is not None else f"page {item.page}:" if item.page else ""
    return f"{item.source}:{place} {closing.quote_of(item)}\n"


def _shown(item: "Evidence", report: "ReadingReport", *, whole: bool) -> Iterator[tuple[str, bool]]:
    """The place, then the sentences with the words set off that are looked at most."""
    yield f"{closing.place_of(item, report.sources)}\n", False
    if whole or not item.quotes:
        yield "".join(f"  {line}\n" for line in item.text.splitlines()), False
        return
    yield "  ", False
    for number, quote in enumerate(item.quotes):
        if number:
            yield " ... ", False
        at = 0
        for begin, end in quote.words:
            yield _one_line(quote.text[at:begin]), False
            yield quote.text[begin:end], True
            at = end
        yield _one_line(quote.text[at:]), False
    yield "\n", False


def _one_line(text: str) -> str:
    """The text with single spaces; those at its ends are kept."""
    return re.sub(r"\s+", " ", text)
