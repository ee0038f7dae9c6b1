"""What a reader of one kind of file yields. Imports only the standard library."""

from dataclasses import dataclass

BLOCK_CHARS = 32768


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of one source, in order; see :class:`lmi_cli.sources.document.Block`."""

    text: str
    page: int | None = None
    label: str | None = None
    line: int | None = None
