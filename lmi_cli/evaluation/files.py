"""Files of records: a JSON object on each line, or one JSON value."""

import io
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.forms.base import RecordFile, RecordForm
from lmi_cli.evaluation.forms.infinitebench import InfiniteBench
from lmi_cli.evaluation.forms.leval import LEval
from lmi_cli.evaluation.forms.longbench import LongBench
from lmi_cli.evaluation.forms.own import OwnQuestions
from lmi_cli.evaluation.forms.qasper import Qasper
from lmi_cli.evaluation.forms.ruler import Ruler
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row

FORMS: tuple[RecordForm, ...] = (
    OwnQuestions(), LongBench(), LEval(), Ruler(), InfiniteBench(), Qasper()
)  # fmt: skip
"""Every form of records; one is recognised by its fields, the first that fits."""

_NO_FILE_NAME = re.compile(r"[/\\\0]|^\.|^\s*$")
_LONGEST_NAME = 120
"""In bytes: file systems allow 255, and forms add something to it."""


@dataclass(frozen=True, slots=True)
class EvalTask:
    """The questions that are scored together.

    Attributes:
        name: Its name.
        form: The form of its records.
        settings: How they are asked and scored.
        items: The questions.
        sha256: Of the files that they come from.
    """

    name: str
    form: RecordForm
    settings: TaskSettings
    items: tuple[EvalItem, ...]
    sha256: str


def read_tasks(files: Iterable[tuple[RecordFile, bytes]]) -> list[EvalTask]:
    """The tasks of some files, in the order in which they appear.

    Raises:
        NoInputError: A file has no questions, or a record of no known form; or two tasks share
            their name or the file of their predictions.
    """
    items: dict[str, list[EvalItem]] = defaultdict(list)
    forms: dict[str, RecordForm] = {}
    written: dict[str, str] = {}
    digests: dict[str, list[str]] = defaultdict(list)
    for file, data in files:
        digest, form, asked = sha256(data).hexdigest(), None, 0
        for row in rows(file, data):
            form = _form_of(row) if form is None else form
            if not form.fits(row):
                raise row.fault(
                    f"it is not of the form of the records before it ({form.name}): "
                    f"{_missing(form, row)} is missing"
                )
            for item in form.items(row, file):
                name, asked = item.task, asked + 1
                if _NO_FILE_NAME.search(name) or len(os.fsencode(name)) > _LONGEST_NAME:
                    raise row.fault(f"the task {name[:80]!r} cannot be the name of a file")
                if forms.setdefault(name, form) is not form:
                    raise row.fault(f"the task {name!r} is one of {forms[name].name} as well")
                # Some file systems do not tell upper from lower case.
                other = written.setdefault(form.file_name(name).casefold(), name)
                if other != name:
                    raise row.fault(f"the tasks {other!r} and {name!r} share a file of predictions")
                items[name].append(replace(item, number=len(items[name])))
                if digest not in digests[name]:
                    digests[name].append(digest)
        if not asked:
            raise NoInputError(f"{file.name}: no question in this file")
    return [
        EvalTask(
            name,
            forms[name],
            forms[name].settings(found),
            tuple(found),
            sha256("".join(digests[name]).encode()).hexdigest(),
        )
        for name, found in items.items()
    ]


def rows(file: RecordFile, data: bytes) -> Iterator[Row]:
    """The records of a file.

    Raises:
        NoInputError: It is empty, not UTF-8, or a record is not a JSON object.
    """
    name = file.name
    if not data.strip():
        raise NoInputError(f"{name}: the file is empty")
    if b"\0" in data[:4096]:
        raise NoInputError(f"{name}: a binary file, not records in JSON")
    whole = file.path is not None and file.path.suffix == ".json"
    parts = enumerate([data] if whole else io.BytesIO(data), 1)
    for number, part in parts:
        if not part.strip():
            continue
        where = name if whole else f"{name} line {number:,}"
        for place, value in _objects(where, _parsed(where, part)):
            if not isinstance(value, dict):
                raise NoInputError(f"{place}: not a JSON object")
            yield Row(value, place)


def _objects(where: str, value: Any) -> list[tuple[str, Any]]:
    """The records in a JSON value: itself, its elements, or the papers of Qasper's release."""
    if isinstance(value, list):
        return [(f"{where} record {number:,}", each) for number, each in enumerate(value, 1)]
    if isinstance(value, dict) and value and all(map(_is_paper, value.values())):
        return [(f"{where} paper {name[:40]}", each) for name, each in value.items()]
    return [(where, value)]


def _is_paper(value: Any) -> bool:
    return isinstance(value, dict) and all(name in value for name in Qasper.fields)


def _parsed(where: str, part: bytes) -> Any:
    try:
        return json.loads(part.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise NoInputError(f"{where}: not UTF-8 text ({error.reason})") from None
    except json.JSONDecodeError as error:
        raise NoInputError(f"{where}: not JSON: {error.msg} at character {error.pos:,}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise NoInputError(f"{where}: not JSON: {reason}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _form_of(row: Row) -> RecordForm:
    for form in FORMS:
        if form.fits(row):
            return form
    named = ", ".join(sorted(map(str, row.values))[:8]) or "none"
    raise NoInputError(
        f"{row.where}: a record of no known form; its fields are {named[:200]}",
        hint="; ".join(f"{form.name} has {', '.join(form.fields)}" for form in FORMS),
    )


def _missing(form: RecordForm, row: Row) -> str:
    return " and ".join(repr(name) for name in form.fields if not row.has(name))


def read_bytes(path: Path | None, stdin: BinaryIO | None = None) -> bytes:
    """The content of a file, or of standard input for None.

    Raises:
        NoInputError: It cannot be read.
    """
    try:
        if path is None:
            return (stdin or sys.stdin.buffer).read()
        return path.read_bytes()
    except OSError as error:
        raise NoInputError(f"{path or '<stdin>'}: {error.strerror or error}") from None
