"""The reference of all commands as Markdown, generated from the declarations behind the help.

``python -m lmi_cli.cli.reference`` writes it to ``docs/commands.md``; a test compares the two.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from lmi_cli.cli.app import build

TARGET = Path(__file__).parents[2] / "docs" / "commands.md"

_INTRODUCTION = """# Commands

This page is generated from the declarations of the commands: `python -m lmi_cli.cli.reference`.

`N` is a whole number, which may end in `k` or `m` (thousand, million) or in `K` or `M` (1024, 1024
squared). An option that is not on the command line is read from its environment variable, if one
is named, or from a configuration file (see [configuration.md](configuration.md)).
"""


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(build())
    parts = [_INTRODUCTION]
    for name, command in group.commands.items():
        parts.append(_section(f"lmi {name}", command))
        for inner, subcommand in getattr(command, "commands", {}).items():
            parts.append(_section(f"lmi {name} {inner}", subcommand))
    return "\n".join(parts)


def _section(path: str, command: Any) -> str:
    arguments = [item for item in command.params if not item.opts[0].startswith("-")]
    options = [item for item in command.params if item.opts[0].startswith("-")]
    usage = " ".join([path, "[OPTIONS]", *(item.metavar or "" for item in arguments)])
    lines = [f"## {path}", "", f"    {usage}", "", " ".join(command.help.split()), ""]
    lines += [f"- `{item.metavar}`: {item.help}" for item in arguments]
    if options:
        lines += ["", "| option | default | variable | what it does |", "|---|---|---|---|"]
        lines += _rows(options)
    return "\n".join(lines) + "\n"


def _rows(options: list[Any]) -> Iterator[str]:
    panel = None
    for item in options:
        heading = getattr(item, "rich_help_panel", None)
        if heading is not None and heading != panel:
            panel = heading
            yield f"| **{panel}** | | | |"
        names = ", ".join(sorted(item.opts, key=len))
        form = f"`{names}`" if item.is_flag else f"`{names} {item.metavar}`"
        default = "" if item.default is None or item.is_flag else f"`{item.default}`"
        variable = f"`{item.envvar}`" if item.envvar else ""
        cells = (cell.replace("|", "\\|") for cell in (form, default, variable, item.help))
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
