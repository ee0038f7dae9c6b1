"""Documents as a tree of folders, with the number of tokens in each file and folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmi_cli.cli.console import one_line

if TYPE_CHECKING:
    from lmi_cli.tasks.report import SourceReport


@dataclass
class _Folder:
    tokens: int = 0
    folders: "dict[str, _Folder]" = field(default_factory=dict)
    files: "list[tuple[str, SourceReport]]" = field(default_factory=list)


def tree_lines(sources: "Sequence[SourceReport]") -> Iterator[str]:
    """A line for each file and folder; a folder with nothing but one folder shares its line."""
    root = _Folder()
    for source in sources:
        *folders, name = source.origin.split("/")
        folder = root
        folder.tokens += source.tokens
        for part in folders:
            folder = folder.folders.setdefault(part, _Folder())
            folder.tokens += source.tokens
        folder.files.append((name, source))
    yield from _branches(root, "")


def _branches(folder: _Folder, indent: str) -> Iterator[str]:
    for name, inner in folder.folders.items():
        path, end = name, inner
        while len(end.folders) == 1 and not end.files:
            ((part, end),) = end.folders.items()
            path += f"/{part}"
        yield f"{inner.tokens:>13,}  {indent}{one_line(path)}/"
        yield from _branches(end, indent + "  ")
    for name, source in folder.files:
        pages = f", {source.pages:,} pages" if source.pages else ""
        yield f"{source.tokens:>13,}  {indent}{one_line(name)}  ({source.kind}{pages})"
