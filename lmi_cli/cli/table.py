"""Tables that fit the terminal, made by rich and written as plain text."""

import io
import sys
from typing import TYPE_CHECKING

from lmi_cli.cli.console import columns

if TYPE_CHECKING:
    from rich.table import Table

_NARROW, _WIDE = 40, 200


def table(*left: str, right: tuple[str, ...] = ()) -> "Table":
    """A table with these headings; columns of figures stand at the right of their width."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in left:
        made.add_column(name, overflow="fold")
    for name in right:
        made.add_column(name, justify="right", overflow="fold")
    return made


def rendered(table: "Table") -> str:
    """The lines of a table, as wide as the terminal, or as it takes where there is none."""
    from rich.console import Console

    width = columns(sys.stdout) or _WIDE
    file = io.StringIO()
    console = Console(
        file=file, width=max(_NARROW, width), color_system=None, markup=False, highlight=False
    )
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
