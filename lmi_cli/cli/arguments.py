"""Turns a dataclass of options into a command that Typer can call.

Every option of a command is a field of one dataclass, declared in one line: its type, its names, a
placeholder for its value, and its help.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, field, fields
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Self, get_type_hints

import typer

from lmi_cli.cli.standing import Rank, from_files, origins, running, set_aside
from lmi_cli.errors import UsageError
from lmi_cli.methods import METHODS
from lmi_cli.methods.places import layers_in, layers_text

_COUNT = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)([kKmM]?)")
_LARGEST_COUNT = 2**53
_CONTEXT = "parsing_context"
_FACTORS = {"": 1, "k": 1000, "K": 1024, "m": 1_000_000, "M": 1024 * 1024}


def count(text: str | int) -> int:
    """An integer that may end in k, m (thousand, million) or K, M (1024, 1024 squared).

    Negative numbers are accepted: the caller knows the smallest valid value and can name it.
    """
    match = _COUNT.fullmatch(str(text).strip())
    if match is None:
        raise typer.BadParameter(f"{str(text)!r} is not a number such as 4096, 4k or 4K")
    value = Decimal(match[1]) * _FACTORS[match[2]]
    if abs(value) > _LARGEST_COUNT:
        raise typer.BadParameter(f"{str(text)!r} is too large")
    if value != int(value):
        raise typer.BadParameter(f"{str(text)!r} is not a whole number")
    return int(value)


def layers(text: str) -> str:
    """A list of layers, such as ``0,5,8-11``, as a method's parameters name them."""
    try:
        return layers_text(layers_in(text))
    except UsageError as error:
        raise typer.BadParameter(error.message) from None


_PARSERS: dict[str, Callable[[str], Any]] = {"N": count, "LAYERS": layers}
"""By the placeholder of a value."""


def counts(text: str) -> list[int]:
    """Counts separated by commas.

    Raises:
        UsageError: One of them is not a count.
    """
    try:
        return [count(part) for part in text.split(",") if part.strip()]
    except typer.BadParameter as error:
        raise UsageError(error.message) from None


class Panel(str):
    """A heading in the help. Calling it declares an option under that heading.

    Args:
        name: The heading.
        closed: Why the configuration file of a folder must not set such options, in words that
            follow "which"; None if it may.
    """

    closed: str | None

    def __new__(cls, name: str, *, closed: str | None = None) -> Self:
        """Make one."""
        panel = super().__new__(cls, name)
        panel.closed = closed
        return panel

    def __call__(self, form: str, help: str, default: Any = None, *, envvar: bool = True) -> Any:
        """A field for an option.

        Args:
            form: Its names, the long one first, then a placeholder for its value. ``N`` takes a
                :func:`count`, ``LAYERS`` a list of :func:`layers`; without a placeholder the
                option is a flag.
            help: One sentence.
            default: Its value if the option is not used.
            envvar: Whether it can also be set by the environment variable ``LMI_`` plus its name.
        """
        return field(default=default, metadata=self.declared(form, help, envvar=envvar))

    def declared(self, form: str, help: str, *, envvar: bool = True) -> dict[str, Any]:
        """The metadata of a field for an option; arguments as for a call."""
        words = form.split()
        names = [word for word in words if word.startswith("-")]
        metavar = None if len(names) == len(words) else words[-1]
        option = typer.Option(
            *names,
            help=help,
            metavar=metavar,
            rich_help_panel=self,
            envvar="LMI_" + names[0][2:].replace("-", "_").upper() if envvar else None,
            show_envvar=False,
            parser=_PARSERS.get(metavar or ""),
        )
        return {"panel": self, "declared": option}


def argument(metavar: str, help: str, default: Any = None) -> Any:
    """A field for arguments; ``default=MISSING`` makes one required."""
    declared = typer.Argument(metavar=metavar, help=help, show_default=False)
    return field(default=default, metadata={"panel": "", "declared": declared})


def method_options(panel: Panel) -> Any:
    """A field for the options of all methods; its value has those that were used, by name."""
    return field(default_factory=dict, metadata={"panel": panel})


def parsed(run: Callable[[Any], None]) -> Callable[..., Callable[[], None]]:
    """Turn a command that takes one request into a function that Typer can call.

    Typer sees the fields of the request's dataclass as a flat signature. The function returns the
    call to make, so that the work runs after parsing and outside Typer's own error handling. The
    class attribute ``panels`` names the headings of the inherited options that the command takes,
    ``omitted`` the fields under them that it does not.
    """
    (parameter,) = inspect.signature(run).parameters.values()
    kind = get_type_hints(run)[parameter.name]
    parameters = list(_parameters(kind))
    known = {item.name for item in fields(kind)}
    (collected,) = (
        item.name
        for item in fields(kind)
        if "panel" in item.metadata and "declared" not in item.metadata
    )
    defaults = {item.name: item.default for item in parameters}
    context = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *parameters]

    def command(**values: Any) -> Callable[[], None]:
        parsing = values.pop(_CONTEXT)
        where = origins(parsing)
        values |= from_files(parsing, where)
        for name in set_aside(values, where):
            values[name] = defaults[name]
            del where[name]
        own = {name: value for name, value in values.items() if name in known}
        others = {n: v for n, v in values.items() if n not in known and v is not None}
        standing = frozenset(n for n, origin in where.items() if origin.rank < Rank.COMMAND_LINE)
        request = kind(**own, **{collected: others}, standing=standing)
        return partial(running, partial(run, request), where, quiet=request.quiet)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    command.__module__ = run.__module__
    return command


def _parameters(kind: type[Any]) -> Iterator[inspect.Parameter]:
    hints, own = get_type_hints(kind), inspect.get_annotations(kind)
    for item in sorted(fields(kind), key=lambda item: item.name not in own):
        panel = item.metadata.get("panel")
        if panel is None:
            continue
        if item.name not in own and (panel not in kind.panels or item.name in kind.omitted):
            continue
        if "declared" in item.metadata:
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            yield _parameter(item.name, hints[item.name], default, item.metadata)
            continue
        options = {option.name: option for method in METHODS.values() for option in method.options}
        for name, option in options.items():
            value: Any = str if option.choices or option.layers else int
            metavar = "NAME" if option.choices else "LAYERS" if option.layers else "N"
            declared = panel.declared(f"{option.flag} {metavar}", option.help)
            yield _parameter(name, value | None, None, declared)


def _parameter(name: str, hint: Any, default: Any, metadata: Any) -> inspect.Parameter:
    annotation = Annotated[hint, metadata["declared"]]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
