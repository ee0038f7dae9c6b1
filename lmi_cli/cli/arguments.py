"""From a dataclass of options to a command that Typer can call.

Every option of a command is a field of one dataclass, declared in a line: its type, its names, what
it takes and what it does. Imports the standard library, typer and ``methods``.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from lmi_cli.errors import UsageError
from lmi_cli.methods import METHODS

_COUNT = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)([kKmM]?)")
_LARGEST_COUNT = 2**53
_FACTORS = {"": 1, "k": 1000, "K": 1024, "m": 1_000_000, "M": 1024 * 1024}

Request = TypeVar("Request")


def count(text: str | int) -> int:
    """An integer that may end in k, m (thousand, million) or K, M (1024, 1024 squared).

    It may be negative, so that whoever knows what it counts can say what the smallest is.
    """
    match = _COUNT.fullmatch(str(text).strip())
    if match is None:
        raise typer.BadParameter(f"{str(text)!r} is not a number such as 4096, 4k or 4K")
    value = Decimal(match[1]) * _FACTORS[match[2]]
    if abs(value) > _LARGEST_COUNT:
        raise typer.BadParameter(f"{str(text)!r} is larger than anything that can be counted")
    if value != int(value):
        raise typer.BadParameter(f"{str(text)!r} is not a whole number")
    return int(value)


def counts(text: str) -> list[int]:
    """Counts separated by commas.

    Raises:
        UsageError: One of them is not a count.
    """
    try:
        return [count(part) for part in text.split(",") if part.strip()]
    except typer.BadParameter as error:
        raise UsageError(error.message) from None


@dataclass(frozen=True, slots=True)
class _Declared:
    """How a field of a request appears on the command line.

    Attributes:
        panel: Heading in the help; empty for an argument.
        names: As typed, long one first.
        metavar: Placeholder for its value in the help; None for a flag.
        help: One sentence.
        parser: From text to value; None leaves that to Typer.
        envvar: Whether ``LMI_`` and the long name is its environment variable.
    """

    panel: str
    names: tuple[str, ...]
    metavar: str | None
    help: str
    parser: Callable[[str], Any] | None = None
    envvar: bool = True

    def typer(self) -> Any:
        """The declaration as Typer takes it."""
        if not self.names:
            return typer.Argument(metavar=self.metavar, help=self.help, show_default=False)
        variable = "LMI_" + self.names[0].removeprefix("--").replace("-", "_").upper()
        more: dict[str, Any] = {} if self.metavar is None else {"metavar": self.metavar}
        return typer.Option(
            *self.names,
            help=self.help,
            rich_help_panel=self.panel,
            envvar=variable if self.envvar else None,
            show_envvar=False,
            parser=self.parser,
            **more,
        )


class Panel(str):
    """A heading in the help. Calling it declares an option under that heading."""

    __slots__ = ()

    def __call__(self, form: str, help: str, default: Any = None, *, envvar: bool = True) -> Any:
        """A field for an option.

        Args:
            form: Its names, the long one first, then a placeholder for its value. ``N`` takes a
                :func:`count`; without a placeholder the option is a flag.
            help: One sentence.
            default: Its value if it is not given.
            envvar: Whether it can be set by an environment variable.
        """
        words = form.split()
        names = tuple(word for word in words if word.startswith("-"))
        metavar = None if len(names) == len(words) else words[-1]
        parser = count if metavar == "N" else None
        declared = _Declared(self, names, metavar, help, parser, envvar)
        return field(default=default, metadata={"declared": declared})


def argument(metavar: str, help: str, default: Any = None) -> Any:
    """A field for arguments; ``default=MISSING`` makes one required."""
    declared = _Declared("", (), metavar, help)
    return field(default=default, metadata={"declared": declared})


def method_options(panel: Panel) -> Any:
    """A field for the options of all methods; its value holds those that were given, by name."""
    return field(default_factory=dict, metadata={"methods": panel})


def parsed(run: Callable[[Any], None]) -> Callable[..., Callable[[], None]]:
    """Turn a command that takes one request into what Typer can call.

    Typer sees the fields of the request's dataclass as a flat signature. It gets back the call to
    make, so that the work runs after parsing and outside of Typer's own error handling. The class
    attribute ``panels`` names the headings of the inherited options that the command has.
    """
    (parameter,) = inspect.signature(run).parameters.values()
    kind = get_type_hints(run)[parameter.name]
    parameters = list(_parameters(kind))
    known = {item.name for item in fields(kind)}
    collected = next((f.name for f in fields(kind) if "methods" in f.metadata), None)

    def command(**values: Any) -> Callable[[], None]:
        chosen = {name: value for name, value in values.items() if name in known}
        if collected is not None:
            others = {name: value for name, value in values.items() if name not in known}
            chosen[collected] = {n: value for n, value in others.items() if value is not None}
        return partial(run, kind(**chosen))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    command.__module__ = run.__module__
    return command


def _parameters(kind: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind)
    own = inspect.get_annotations(kind)
    for item in sorted(fields(kind), key=lambda item: item.name not in own):
        panel: str = item.metadata.get("methods", "")
        if panel in kind.panels:
            options = {o.name: o for method in METHODS.values() for o in method.options}
            for name, known in options.items():
                of_method = _Declared(panel, (known.flag,), "N", known.help, count)
                yield _parameter(name, int | None, None, of_method)
        declared: _Declared | None = item.metadata.get("declared")
        if declared is not None and (item.name in own or declared.panel in kind.panels):
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            yield _parameter(item.name, hints[item.name], default, declared)


def _parameter(name: str, hint: Any, default: Any, declared: _Declared) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, declared.typer()],
    )
