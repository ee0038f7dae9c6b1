"""Options that hold without being typed: where each is from, and what gives way to what.

The command line comes before variables, those before the file of the folder, that before the
user's. What contradicts an option that comes before it is set aside instead of being refused.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import typer

from lmi_cli.cli.console import message
from lmi_cli.cli.settings import Setting, Settings
from lmi_cli.cli.values import REREADING_BASES, names
from lmi_cli.errors import LmiError, ModelError
from lmi_cli.methods import METHODS, MethodChoice
from lmi_cli.processes import place


class Rank(IntEnum):
    """Where a value is from; the higher one holds."""

    DEFAULT = 0
    USER_FILE = 1
    FOLDER_FILE = 2
    VARIABLE = 3
    COMMAND_LINE = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of an option is from.

    Attributes:
        rank: The kind of place.
        where: The variable, or ``PATH:LINE``; empty for the command line and a default.
        flag: The option as it is written on the command line.
        setting: That of a file; else None.
    """

    rank: Rank
    where: str = ""
    flag: str = ""
    setting: Setting | None = None


def origin_of(option: Any, setting: Setting | None, source: str) -> Origin:
    """The origin of an option of the parser, whose name for it is ``source``."""
    flag = next((name for name in option.opts if name.startswith("--")), "")
    if source == "COMMANDLINE":
        return Origin(Rank.COMMAND_LINE, flag=flag)
    if source == "ENVIRONMENT":
        return Origin(Rank.VARIABLE, option.envvar, flag)
    if setting is None:
        return Origin(Rank.DEFAULT, flag=flag)
    rank = Rank.USER_FILE if setting.file.place.own else Rank.FOLDER_FILE
    return Origin(rank, setting.where, flag, setting)


def origins(context: typer.Context) -> dict[str, Origin]:
    """The origins of the options of a command that has been parsed; those of defaults are left out.

    They are by the names of the parameters.
    """
    settings = context.obj
    command = context.command_path.partition(" ")[2]
    set_in_files = settings.of(command) if isinstance(settings, Settings) else {}
    found: dict[str, Origin] = {}
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        origin = origin_of(
            option, set_in_files.get(name), "DEFAULT" if source is None else source.name
        )
        if origin.rank > Rank.DEFAULT:
            found[name] = origin
    return found


def from_files(context: typer.Context, origins: Mapping[str, Origin]) -> dict[str, Any]:
    """The values of those options that files set, by the names of the parameters."""
    options = {str(option.name): option for option in context.command.params}
    return {
        name: value_of(options[name], origin.setting.value, context)
        for name, origin in origins.items()
        if origin.setting is not None
    }


def value_of(option: Any, given: Any, context: typer.Context) -> Any:
    """What an option is if the command line, a variable or a file hands over a value."""
    return option.process_value(context, given)


def set_aside(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> dict[str, str]:
    """The options that give way to another, by their names; values are those names.

    Args:
        values: All options of a command by their names.
        origins: As :func:`origins` returns them.
    """
    aside: dict[str, str] = {}

    def rank(name: str) -> Rank:
        return origins[name].rank if name in origins else Rank.DEFAULT

    def used(name: str) -> bool:
        value = values.get(name)
        return value is not None and value is not False and name in origins and name not in aside

    for one, other in _contradictions(values, used):
        weaker = min((other, one), key=rank)
        standing = rank(weaker) < Rank.COMMAND_LINE
        if rank(one) != rank(other) or (standing and (one, other) == ("compare", "method")):
            aside.setdefault(weaker, other if weaker == one else one)
    return aside | {
        name: "compare" if used("compare") else "method"
        for name in _foreign(values, used)
        if rank(name) < Rank.COMMAND_LINE
    }


def _foreign(values: Mapping[str, Any], used: Callable[[str], bool]) -> Iterator[str]:
    """Options of methods that are not the chosen ones."""
    chosen = [values["method"]] if used("method") else [MethodChoice().name]
    if used("compare"):
        chosen = names(values["compare"])
    known = {option.name for name in chosen if name in METHODS for option in METHODS[name].options}
    return (name for name in _names_of_methods() - known if used(name))


def _contradictions(
    values: Mapping[str, Any], used: Callable[[str], bool]
) -> Iterator[tuple[str, str]]:
    """Pairs of options that cannot hold together."""
    fixed = {option.name for m in METHODS.values() for option in m.options if option.fixed}
    searching = sorted(_names_of_methods() - fixed)
    reading = ("method", *sorted(_names_of_methods()))
    pairs = [("compare", "method"), ("json", "files")]
    if values.get("format") == "markdown":
        pairs.append(("json", "format"))
    if values.get("strategy") not in (None, "auto", "extract"):
        pairs.append(("focus", "strategy"))
    pairs += [("focus", "no_memory"), *(("no_memory", name) for name in searching)]
    pairs += [("no_memory", name) for name in REREADING_BASES]
    if used("answer_from"):
        basis = values["answer_from"]
        pairs += [
            ("answer_from", name) for name, bases in REREADING_BASES.items() if basis not in bases
        ]
        if basis not in ("auto", "window"):
            pairs.append(("answer_from", "no_memory"))
        if basis in ("passages", "window"):
            pairs += [("answer_from", name) for name in searching]
        if _reads_parts(basis):
            pairs += [("answer_from", name) for name in (*reading, "index", "memory_int8")]
    for one, other in pairs:
        if used(one) and used(other):
            yield one, other


def _names_of_methods() -> set[str]:
    """All options of methods."""
    return {option.name for method in METHODS.values() for option in method.options}


def _reads_parts(basis: str) -> bool:
    from lmi_cli.tasks.plan import PARTWISE

    return basis in PARTWISE


def _is_silent() -> bool:
    """Whether another process says what there is to say."""
    here = place.place()
    return place.is_supervised() or (here is not None and here.rank > 0)


def running(run: Callable[[], None], origins: Mapping[str, Origin], *, quiet: bool) -> None:
    """Run a command, and say what it does not have from the command line.

    A note names what the file of the folder sets, as anyone may have written it. Of an error that
    names an option, the message says where that option is set.
    """
    folder = [origin for origin in origins.values() if origin.rank == Rank.FOLDER_FILE]
    if folder and not quiet and not _is_silent():
        name = next(origin.setting.file.place.shown for origin in folder if origin.setting)
        flags = ", ".join(origin.flag for origin in folder)
        message(f"{name} in this folder sets {flags} (lmi config says what holds)")
    try:
        run()
    except LmiError as error:
        words = error.message.replace(",", " ").replace(":", " ").split()
        places = [
            f"{origin.flag} is from {origin.where}"
            for name, origin in origins.items()
            if origin.where
            and (
                origin.flag in words
                or (name == "model" and isinstance(error, ModelError))
                or (name in words and name in _names_of_methods())
            )
        ]
        if places:
            error.message += f" ({', '.join(places)})"
        raise
