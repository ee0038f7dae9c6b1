"""What configuration files set, checked against the options that commands have.

Every option has a key: its long name without the dashes, as in ``window = 4096``. Those at the top
of a file hold for all commands that have them, those in a table such as ``[qa]`` or
``[models.calibrate]`` for one.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import typer

from lmi_cli.cli.configuration import NAME, VARIABLE, ConfigFile, files
from lmi_cli.errors import UsageError

_NO_KEYS = frozenset({"question"})
"""Options that say what a single run is about."""
_OPEN = frozenset({"include", "exclude", "max-file-size", "dtype", "quantize", "theme"})
"""Harmless ones under headings that are closed to the file of a folder."""
_PATHS = ("FILE", "FOLDER")
_PLACEHOLDERS = ("N", "X")
"""Of numbers."""
_NUMBERS: dict[str, tuple[type, ...]] = {"int": (int, str), "float": (int, float)}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value in a file.

    Attributes:
        value: What the command line would hand over: text, a list of texts, or True or False.
        file: Where it stands.
        key: Under which name.
    """

    value: Any
    file: ConfigFile
    key: tuple[str, ...]

    @property
    def where(self) -> str:
        """``PATH:LINE``."""
        return self.file.where(*self.key)


class Settings:
    """What the files set for each command of a program; they are read when the first is asked for.

    Args:
        program: The command that has all others.

    Attributes:
        commands: The commands with options by their names, as in ``models calibrate``.
        options: Their options by key.
    """

    def __init__(self, program: Any) -> None:
        self.commands: dict[str, Any] = {}
        for name, command in program.commands.items():
            inner = getattr(command, "commands", {}).items()
            if inner:
                self.commands |= {f"{name} {second}": subcommand for second, subcommand in inner}
            elif name != "config":
                self.commands[name] = command
        self.options = {name: _options(command) for name, command in self.commands.items()}

    def of(self, command: str) -> dict[str, Setting]:
        """The settings of a command by the names of its parameters.

        Raises:
            UsageError: A file is not valid, whichever command that concerns.
        """
        # What shows the configuration does so even if it is broken.
        return self._all.get(command, {}) if command in self.commands else {}

    def files(self) -> list[ConfigFile]:
        """The files that were read, the one that counts most first."""
        return self._files

    @cached_property
    def _files(self) -> list[ConfigFile]:
        return list(files())

    @cached_property
    def _all(self) -> dict[str, dict[str, Setting]]:
        found: dict[str, dict[str, Setting]] = {}
        for file in reversed(self._files):
            for command, name, setting in self._read(file):
                found.setdefault(command, {})[name] = setting
        return found

    def _read(self, file: ConfigFile) -> Iterator[tuple[str, str, Setting]]:
        """What a file sets: command, parameter, value; what counts more comes later."""
        tables = []
        for name, value in file.values.items():
            if isinstance(value, dict):
                tables.append((name, value))
                continue
            having = {c: options[name] for c, options in self.options.items() if name in options}
            setting = self._setting(file, (name,), value, having, "an option of any command")
            for command, option in having.items():
                yield command, option.name, setting
        for name, table in tables:
            yield from self._table(file, (name,), table)

    def _table(
        self, file: ConfigFile, table: tuple[str, ...], values: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, Setting]]:
        command = " ".join(table)
        if any(name.startswith(f"{command} ") for name in self.options):
            for name, value in values.items():
                if not isinstance(value, dict):
                    first = next(n for n in self.options if n.startswith(f"{command} "))
                    raise UsageError(
                        f"{file.where(*table, name)}: {command} has tables for its commands only",
                        hint=f"as in [{first.replace(' ', '.')}]",
                    )
                yield from self._table(file, (*table, name), value)
            return
        if command not in self.options:
            if any(table[-1] in options for options in self.options.values()):
                raise UsageError(f"{file.where(*table)}: {table[-1]} is an option, not a table")
            name, known = ".".join(table), [name.replace(" ", ".") for name in self.options]
            raise UsageError(
                f"{file.where(*table)}: [{name}] is not a command with options",
                hint=_nearest(name, known),
            )
        for name, value in values.items():
            if isinstance(value, dict):
                yield from self._table(file, (*table, name), value)
                continue
            options = self.options[command]
            having = {command: options[name]} if name in options else {}
            setting = self._setting(
                file, (*table, name), value, having, f"an option of lmi {command}"
            )
            yield command, options[name].name, setting

    def _setting(
        self,
        file: ConfigFile,
        key: tuple[str, ...],
        value: Any,
        having: Mapping[str, Any],
        what: str,
    ) -> Setting:
        """A value, checked.

        Args:
            file: Where it stands.
            key: Its tables and its name.
            value: The value as TOML has it.
            having: The option of each command that it is for.
            what: What it would be if there were any.
        """
        where, name = file.where(*key), key[-1]
        if not having:
            tables = list(self.options) if len(key) == 1 else [" ".join(key[:-1])]
            known = {name for command in tables for name in self.options[command]}
            others = [command for command, options in self.options.items() if name in options]
            have = "has" if len(others) == 1 else "have"
            hint = f"lmi {' and '.join(others)} {have} it" if others else _nearest(name, known)
            first = next((name for name in self.options if name.partition(" ")[0] == key[0]), None)
            if first is not None and len(key) == 1:
                hint = f"options of a command stand in a table, as in [{first.replace(' ', '.')}]"
            if name in _NO_KEYS:
                hint = "it is said anew with each command"
            raise UsageError(f"{where}: {name} is not {what}", hint=hint)
        if len({_form(option) for option in having.values()}) > 1:
            own = " or ".join(f"[{command.replace(' ', '.')}]" for command in having)
            raise UsageError(
                f"{where}: {name} means one thing to lmi {' and another to lmi '.join(having)}",
                hint=f"set it in the table {own}",
            )
        option = next(iter(having.values()))
        reason = next(filter(None, map(closed, having.values())), None)
        if reason is not None and not file.place.own:
            user = f"your own {NAME} (lmi config shows where that is)"
            raise UsageError(
                f"{where}: {name} cannot be set by the file of a folder, which {reason}",
                hint=f"set it in {user}, or make this file yours: {VARIABLE}={file.place.path}",
            )
        given = _as_given(option, value, f"{where}: {name}")
        command = next(iter(having))
        try:
            option.process_value(typer.Context(self.commands[command]), given)
        except typer.BadParameter as error:
            raise UsageError(f"{where}: {name}: {error.message}") from None
        return Setting(given, file, key)


def key_of(option: Any) -> str | None:
    """The key of an option of the parser; None if it has none, as arguments have."""
    long = next((name[2:] for name in option.opts if name.startswith("--")), None)
    return None if long in _NO_KEYS else long


def closed(option: Any) -> str | None:
    """Why the file of a folder, which anyone may have written, must not set an option.

    None for the others: those that say how a text is read, asked about, measured and answered.
    """
    if is_path(option):
        return "must not say what is opened or written"
    if key_of(option) in _OPEN:
        return None
    panel = option.rich_help_panel
    reason: str | None = getattr(panel, "closed", "must not set what stands under no heading")
    return reason


def _form(option: Any) -> tuple[str, bool]:
    """What an option means, as far as it is seen from outside: one name or several are alike."""
    form = "FILE" if is_path(option) else (option.metavar or "").removesuffix(",...")
    return form, bool(option.is_flag)


def is_path(option: Any) -> bool:
    """Whether the value of an option names a file or a folder."""
    return any(word in (option.metavar or "") for word in _PATHS)


def _options(command: Any) -> dict[str, Any]:
    return {key: option for option in command.params if (key := key_of(option)) is not None}


def _nearest(name: str, known: Any) -> str | None:
    plain = name.replace("_", "-").lower()
    found = difflib.get_close_matches(plain, list(known), 1)
    return f"did you mean {found[0]}?" if found else None


def _as_given(option: Any, value: Any, what: str) -> Any:
    """A value of TOML as the command line would hand it over.

    Raises:
        UsageError: It is of the wrong type; the message begins with ``what``.
    """
    if option.is_flag:
        return _require(value, (bool,), "true or false", what)
    metavar, kind = option.metavar or "", option.type_descriptor.annotation
    if option.multiple:
        items = value if isinstance(value, list) else [value]
        return [_require(item, (str,), "text, or a list of texts", what) for item in items]
    if "," in metavar or metavar == "LAYERS":
        items = value if isinstance(value, list) else [value]
        wanted = "text, a number, or a list of these"
        return ",".join(str(_require(item, (str, int, float), wanted, what)) for item in items)
    if kind in (int, float):
        wanted = 'a whole number, or text such as "4k"' if kind is int else "a number"
        return str(_require(value, _NUMBERS[kind.__name__], wanted, what))
    if metavar in _PLACEHOLDERS:
        return str(_require(value, (str, int, float), "a number, or text", what))
    text = _require(value, (str,), 'text, as in "..."', what)
    # The shell would have done it.
    expands = is_path(option) or key_of(option) == "model"
    return os.path.expanduser(text) if expands else text  # noqa: PTH111 - pathlib's may raise


def _require(value: Any, kinds: tuple[type, ...], wanted: str, what: str) -> Any:
    # In Python, True is an int.
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return value
    raise UsageError(f"{what} must be {wanted}, not {_toml_type(value)}")


def _toml_type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    kinds = ((str, "text"), (int, "a whole number"), (float, "a number with a fraction"))
    known = (*kinds, (list, "a list"), (dict, "a table"))
    return next((name for kind, name in known if isinstance(value, kind)), "a date or a time")
