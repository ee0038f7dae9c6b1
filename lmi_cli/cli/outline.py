"""Summaries as text, as Markdown and as JSON."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmi_cli.cli.console import one_line

if TYPE_CHECKING:
    from lmi_cli.tasks.summary import Entry, Statement, SummaryReport
    from lmi_cli.text.provenance import Place

_MOST_TITLES = 3
_MARKS = re.compile(r"[\\`*_<&\[]")
_BLOCK_MARK = re.compile(r"^(\d*)([#>+.)-])")


def as_text(report: "SummaryReport", *, outline_only: bool = False) -> Iterator[str]:
    """Lines of the summary, then of the outline."""
    several = len(report.sources) > 1
    if not outline_only:
        for statement in report.statements:
            yield f"{statement.text} [{_place(statement, several=several)}]"
    if entries := _shown(report, outline_only=outline_only):
        if not outline_only:
            yield from ("", "Outline", "")
        for entry in entries:
            yield from entry_lines(entry, several=several)


def entry_lines(entry: "Entry", *, several: bool) -> Iterator[str]:
    """Lines of one entry of the outline; ``several`` names the source beside each place."""
    indent = "  " if entry.kind == "file" else ""
    title, extent = _title(entry), _extent(entry, several=several)
    yield f"{indent}{title} [{extent}]" if title else f"[{extent}]"
    for statement in entry.statements:
        # The name of the source stands in the line above.
        yield f"{indent}  {statement.text} [{_place(statement, several=False)}]"


def as_markdown(report: "SummaryReport", *, outline_only: bool = False) -> Iterator[str]:
    """Lines of a Markdown document."""
    several = len(report.sources) > 1
    names = ", ".join(one_line(source.origin) for source in report.sources[:_MOST_TITLES])
    more = f" and {len(report.sources) - _MOST_TITLES:,} more"
    yield f"# {_plain(names)}{more if len(report.sources) > _MOST_TITLES else ''}"
    if not outline_only:
        yield ""
        for statement in report.statements:
            yield f"- {_plain(statement.text)} ({_plain(_place(statement, several=several))})"
    if entries := _shown(report, outline_only=outline_only):
        yield from ("", "## Outline", "")
        for entry in entries:
            indent = "  " if entry.kind == "file" else ""
            title, extent = _plain(_title(entry)), _plain(_extent(entry, several=several))
            yield f"{indent}- **{title}** ({extent})" if title else f"- ({extent})"
            for statement in entry.statements:
                place = _plain(_place(statement, several=False))
                yield f"{indent}  - {_plain(statement.text)} ({place})"


def as_objects(report: "SummaryReport", *, outline_only: bool = False) -> dict[str, Any]:
    """The parts of the JSON object that hold the summary."""
    statements = [] if outline_only else list(report.statements)
    return {
        "summary": " ".join(statement.text for statement in statements),
        "strategy": report.strategy,
        "statements": [_statement_object(statement) for statement in statements],
        "outline": [
            {
                "kind": entry.kind,
                "titles": list(entry.titles),
                "parts": list(entry.parts),
                "tokens": entry.tokens,
                "source": entry.source,
                **_place_object(entry.first, entry.last),
                "statements": [_statement_object(each) for each in entry.statements],
            }
            for entry in report.outline
        ],
        "parts": report.parts,
        "dropped": report.dropped,
    }


def _statement_object(statement: "Statement") -> dict[str, Any]:
    return {
        "text": statement.text,
        "part": statement.part,
        "source": statement.source,
        **_place_object(statement.first, statement.last),
        "support": statement.support,
    }


def _place_object(first: "Place", last: "Place") -> dict[str, Any]:
    names = ("char", "page", "label", "line")
    return {
        "first": {name: asdict(first)[name] for name in names},
        "last": {name: asdict(last)[name] for name in names},
    }


def _shown(report: "SummaryReport", *, outline_only: bool) -> list["Entry"]:
    """The outline; that of a single part says no more than the summary."""
    return list(report.outline) if outline_only or len(report.outline) > 1 else []


def _title(entry: "Entry") -> str:
    titles = [one_line(title) for title in entry.titles]
    if len(titles) <= _MOST_TITLES:
        return "; ".join(titles)
    return f"{titles[0]} ... {titles[-1]}"


def _extent(entry: "Entry", *, several: bool) -> str:
    if entry.kind != "part":
        return f"{entry.tokens:,} tokens"
    return _places(entry.first, entry.last, entry.source if several else "")


def _place(statement: "Statement", *, several: bool) -> str:
    return _places(statement.first, statement.last, statement.source if several else "")


def _places(first: "Place", last: "Place", source: str) -> str:
    if first.page is not None:
        place = _range("page", first.page, last.page)
    elif first.line is not None:
        place = _range("line", first.line, last.line)
    else:
        place = f"character {first.char or 0:,}"
    return f"{one_line(source)} {place}".strip()


def _range(unit: str, first: int, last: int | None) -> str:
    return f"{unit} {first:,}" if last in (None, first) else f"{unit}s {first:,}-{last:,}"


def _plain(text: str) -> str:
    """Text with escapes for what Markdown would act on."""
    return _BLOCK_MARK.sub(r"\1\\\2", _MARKS.sub(r"\\\g<0>", text))
