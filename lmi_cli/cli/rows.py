"""Rows of figures or places in a file: CSV for spreadsheets, JSON lines for programs.

Every ``--csv FILE`` and ``--jsonl FILE`` is written here.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmi_cli.cli.arguments import Panel
from lmi_cli.cli.console import write_file

Row = Mapping[str, object]


def csv_option(panel: Panel, what: str) -> Any:
    """A field for ``--csv FILE``; ``what`` are the rows, in words."""
    return panel("--csv FILE", f"Also write {what} to this file, as CSV.")


def jsonl_option(panel: Panel, what: str) -> Any:
    """A field for ``--jsonl FILE``."""
    return panel("--jsonl FILE", f"Also write {what} to this file, as JSON lines.")


def write_rows(
    path: Path, rows: Sequence[Row], *, form: str = "csv", columns: Sequence[str] | None = None
) -> None:
    """Write a file of rows whole or not at all, in UTF-8.

    A number that is not finite is ``nan`` or ``inf`` in CSV, and null in JSON, which has no word
    for it.

    Args:
        path: The file.
        rows: Values by column: text, numbers, booleans, None, or lists and dictionaries of these.
        form: ``csv`` (RFC 4180 with a header; None is an empty field, a list or a dictionary is
            JSON in one field, or nothing if it is empty) or ``jsonl`` (one JSON object a line).
        columns: The columns of CSV and their order; by default those of the rows, in the order in
            which they first appear. Without rows, only these make a header.

    Raises:
        ResourceError: It cannot be written.
    """
    text = _csv(rows, columns) if form == "csv" else "".join(f"{_json(row)}\n" for row in rows)
    write_file(path, text.encode("utf-8", "replace"))


def write_row_files(
    csv_file: Path | None,
    jsonl_file: Path | None,
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
) -> None:
    """Write the same rows in either form, or in both; see :func:`write_rows`."""
    for form, path in (("csv", csv_file), ("jsonl", jsonl_file)):
        if path is not None:
            write_rows(path, rows, form=form, columns=columns)


def _csv(rows: Sequence[Row], columns: Sequence[str] | None) -> str:
    names = list(
        dict.fromkeys(name for row in rows for name in row) if columns is None else columns
    )
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    if names:
        writer.writerow(names)
    for row in rows:
        writer.writerow([_field(row.get(name)) for name in names])
    return file.getvalue()


def _field(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple):
        return _json(value) if value else None
    return value


def _json(value: object) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
