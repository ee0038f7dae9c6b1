"""``lmi config``: the options that hold, and where each is set."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.configuration import VARIABLE, places
from lmi_cli.cli.console import Output, columns, one_line
from lmi_cli.cli.request import Request
from lmi_cli.cli.settings import Settings, key_of
from lmi_cli.cli.standing import Origin, Rank, origin_of, set_aside
from lmi_cli.cli.table import rendered, table
from lmi_cli.errors import UsageError

SHOWN = Panel("Shown")

_NONE = "-"
_OPTION_COLUMNS, _VALUE_COLUMNS, _PLACE_COLUMNS, _GAP_COLUMNS = 18, 10, 26, 3


@dataclass(frozen=True, kw_only=True)
class ConfigRequest(Request):
    """Options of ``lmi config``."""

    command: list[str] | None = argument(
        "[COMMAND]", "Show all options of this command, not only those that are set somewhere."
    )
    paths: bool = SHOWN(
        "--paths", "Only print the paths of the configuration files that are looked for.", False,
        envvar=False,
    )  # fmt: skip
    json: bool = SHOWN("--json", "Print one JSON object instead of text.", False)


@dataclass(frozen=True, slots=True)
class _Held:
    """An option of a command, with what holds for it."""

    command: str
    key: str
    value: Any
    default: Any
    origin: Origin
    aside: str | None

    @property
    def source(self) -> str:
        """Where it is set, in words."""
        if self.aside is None:
            return one_line(self.origin.where) or "default"
        return f"{one_line(self.origin.where)}, gives way to --{self.aside.replace('_', '-')}"


def command(request: ConfigRequest) -> None:
    """Show which options hold and why: by a variable, by a configuration file, or by default."""
    if request.paths:
        paths = [_absolute(place.path) for place in places()]
        sink = Output(None)
        sink.write(envelope.dump("config", paths=paths) if request.json else _lines(paths))
        return
    settings = Settings(_program())
    name = " ".join(request.command or []).removeprefix("lmi ").replace(".", " ")
    if name and name not in settings.commands:
        raise UsageError(
            f"{name} is not a command with options",
            hint="one of " + ", ".join(settings.commands),
        )
    held = [
        each
        for command in ([name] if name else settings.commands)
        for each in _held(settings, command)
    ]
    sink = Output(None)
    if request.json:
        sink.write(_as_json(settings, held))
        return
    sink.write(_files(settings))
    set_somewhere = [each for each in held if each.origin.rank > Rank.DEFAULT]
    if name:
        sink.write(_shown([(each.key, _text(each.value), each.source) for each in held]))
    elif set_somewhere:
        sink.write(_of_all(set_somewhere))
    else:
        sink.write("no option is set: all have their defaults\n")
    if not name:
        sink.write("\nlmi config COMMAND shows all options of a command, those by default too\n")


def _program() -> Any:
    from lmi_cli.cli.app import build

    return typer.main.get_command(build())


def _held(settings: Settings, command: str) -> Iterator[_Held]:
    parser = settings.commands[command]
    context = typer.Context(parser)
    of_files = settings.of(command)
    options = {str(item.name): item for item in parser.params if key_of(item) is not None}
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, option in options.items():
        variable = option.value_from_envvar(context)
        setting = of_files.get(name)
        origin = origin_of(option, setting, "DEFAULT" if variable is None else "ENVIRONMENT")
        given = variable if variable is not None else setting and setting.value
        try:
            values[name] = option.default if given is None else option.process_value(context, given)
        except typer.BadParameter as error:
            raise UsageError(f"{origin.where}: {error.message}") from None
        if origin.rank > Rank.DEFAULT:
            origins[name] = origin
    aside = set_aside(values, origins)
    for name, option in options.items():
        origin = origins.get(name, Origin(Rank.DEFAULT))
        value = option.default if name in aside else values[name]
        yield _Held(command, str(key_of(option)), value, option.default, origin, aside.get(name))


def _files(settings: Settings) -> str:
    read = {file.place for file in settings.files()}
    lines = []
    for place in places():
        state = "read" if place in read else "not there"
        whose = "" if place.own else " of this folder, which may not set everything"
        lines.append(one_line(f"{state:<9}  {place.shown}{whose}"))
    return _lines(lines or [f"no file is looked for, as {VARIABLE} is empty"]) + "\n"


def _absolute(path: Path) -> str:
    """The absolute path; a relative one stays as it is where the current folder was deleted."""
    try:
        return str(path.absolute())
    except FileNotFoundError:
        return str(path)


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _of_all(held: Sequence[_Held]) -> str:
    """A row for each option and value; those of a single command are named as in a file."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in held:
        row = each.key, _text(each.value), each.source
        rows.setdefault(row, []).append(each.command)
    several = [row for row, commands in rows.items() if len(commands) > 1]
    single = [row for row in rows if row not in several]
    named = []
    for key, value, source in several + single:
        commands = rows[key, value, source]
        name = f"[{commands[0].replace(' ', '.')}] {key}" if len(commands) == 1 else key
        named.append((name, value, source))
    return _shown(named)


def _shown(rows: Sequence[tuple[str, str, str]]) -> str:
    """A table in which long values are broken into lines before the places are."""
    shown = table("option", "value", "from")
    width = columns(sys.stdout)
    if width is not None:
        option, value, place = shown.columns
        longest = [max((len(row[at]) for row in rows), default=0) for at in range(3)]
        option.max_width = min(longest[0], max(_OPTION_COLUMNS, width // 3 - 2))
        place.max_width = max(_PLACE_COLUMNS, width // 3)
        rest = width - option.max_width - min(longest[2], place.max_width) - 2 * _GAP_COLUMNS
        value.max_width = max(_VALUE_COLUMNS, rest)
    for row in rows:
        shown.add_row(*row)
    return rendered(shown)


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(str, value)))
    return one_line(str(value)) or '""'


def _as_json(settings: Settings, held: Sequence[_Held]) -> str:
    commands: dict[str, dict[str, Any]] = {}
    for each in held:
        setting, variable = each.origin.setting, each.origin.rank == Rank.VARIABLE
        commands.setdefault(each.command, {})[each.key] = {
            "value": _plain(each.value),
            "default": _plain(each.default),
            "from": {Rank.DEFAULT: "default", Rank.VARIABLE: "variable"}.get(
                each.origin.rank, "file"
            ),
            "variable": each.origin.where if variable else None,
            "file": None if setting is None else str(setting.file.place.path.absolute()),
            "line": None if setting is None else setting.file.line(*setting.key),
            "gives_way_to": each.aside and each.aside.replace("_", "-"),
        }
    read = {file.place for file in settings.files()}
    looked_for = [
        {"path": str(place.path.absolute()), "read": place in read, "own": place.own}
        for place in places()
    ]
    return envelope.dump("config", files=looked_for, commands=commands)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
