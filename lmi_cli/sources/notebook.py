"""Jupyter notebooks: the text of the cells, not the outputs. Imports only the standard library."""

import json
from collections.abc import Iterator
from typing import Any

from lmi_cli.sources.blocks import Piece, Source
from lmi_cli.sources.encoding import decoded
from lmi_cli.sources.input import Input
from lmi_cli.sources.reasons import UnreadableError

NOTEBOOK_BYTES = 32 * 1024 * 1024


def read(data: Input, source: Source) -> Iterator[Piece]:
    """Read a notebook: Markdown as it is, code in fences.

    Raises:
        UnreadableError: It is damaged or larger than ``NOTEBOOK_BYTES``.
    """
    parts: list[str] = []
    for text in decoded(data.chunks(), source):
        if data.consumed_bytes > NOTEBOOK_BYTES:
            raise UnreadableError(f"too large for a notebook (over {NOTEBOOK_BYTES:,} bytes)")
        parts.append(text)
    try:
        notebook = json.loads("".join(parts))
        cells = notebook["cells"]
        language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError("damaged notebook") from error
    del parts, notebook
    first = True
    for cell in cells if isinstance(cells, list) else ():
        if text := _cell(cell, language if isinstance(language, str) else ""):
            yield Piece(text if first else f"\n{text}")
            first = False


def _cell(cell: Any, language: str) -> str:
    if not isinstance(cell, dict):
        return ""
    lines = cell.get("source", "")
    text = "".join(map(str, lines)) if isinstance(lines, list) else str(lines)
    text = text.strip("\n")
    if not text.strip():
        return ""
    return f"```{language}\n{text}\n```\n" if cell.get("cell_type") == "code" else f"{text}\n"
