"""Options that commands share, declared once: same name, same meaning, same variable everywhere."""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from lmi_cli.errors import UsageError

_COUNT = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)([kKmM]?)")
_LARGEST_COUNT = 2**53
_FACTORS = {"": 1, "k": 1000, "K": 1024, "m": 1_000_000, "M": 1024 * 1024}


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
    """Several of them, with commas between.

    Raises:
        UsageError: One of them is none.
    """
    try:
        return [count(part) for part in text.split(",") if part.strip()]
    except typer.BadParameter as error:
        raise UsageError(error.message) from None


def option(*names: str, help: str, panel: str, envvar: bool = True, **more: Any) -> Any:
    """A Typer option with its environment variable, ``LMI_`` and the long name."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = "LMI_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        envvar=variable if envvar else None,
        show_envvar=False,
        **more,
    )


def number(*names: str, help: str, panel: str, **more: Any) -> Any:
    """An option that takes a :func:`count`."""
    return option(*names, help=help, panel=panel, parser=count, metavar="N", **more)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How documents are found and read."""

    include: Annotated[
        list[str] | None,
        option(
            "--include",
            metavar="GLOB",
            help="In folders, read only files that match.",
            panel="Sources",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        option(
            "--exclude",
            metavar="GLOB",
            help="In folders, leave out files that match.",
            panel="Sources",
        ),
    ] = None
    no_gitignore: Annotated[
        bool, option("--no-gitignore", help="Do not obey .gitignore.", panel="Sources")
    ] = False
    max_file_size: Annotated[
        int | None,
        number("--max-file-size", help="In folders, skip larger files (bytes).", panel="Sources"),
    ] = None
    password_file: Annotated[
        Path | None,
        option(
            "--password-file",
            metavar="FILE",
            help="First line: password of encrypted PDFs.",
            panel="Sources",
        ),
    ] = None
    dry_run: Annotated[
        bool,
        option("--dry-run", help="Only show what would be read.", panel="Sources"),
    ] = False


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, and where it runs."""

    model: Annotated[
        str | None,
        option(
            "--model",
            "-m",
            metavar="NAME",
            help="Name, Hub id, folder or .gguf file.",
            panel="Model",
        ),
    ] = None
    revision: Annotated[
        str | None,
        option("--revision", metavar="NAME", help="Revision of a Hub model.", panel="Model"),
    ] = None
    device: Annotated[
        str, option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ...", panel="Model")
    ] = "auto"
    dtype: Annotated[
        str,
        option(
            "--dtype", metavar="NAME", help="auto, bfloat16, float16 or float32.", panel="Model"
        ),
    ] = "auto"
    quantize: Annotated[
        str | None,
        option(
            "--quantize",
            metavar="NAME",
            help="int8: eight bits of each weight, on the CPU; none.",
            panel="Model",
        ),
    ] = None
    device_map: Annotated[
        str | None,
        option(
            "--device-map",
            metavar="NAME",
            help="Spread the model over devices: auto, ...",
            panel="Model",
        ),
    ] = None
    max_memory: Annotated[
        str | None,
        option(
            "--max-memory",
            metavar="SIZES",
            help="Limit by device, as in 0=6GiB,cpu=16GiB.",
            panel="Model",
        ),
    ] = None
    offload_folder: Annotated[
        Path | None,
        option(
            "--offload-folder",
            metavar="FOLDER",
            help="For weights that fit no device.",
            panel="Model",
        ),
    ] = None
    offline: Annotated[
        bool, option("--offline", help="Use only what is on this machine.", panel="Model")
    ] = False


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """How the model attends to a long text."""

    method: Annotated[
        str, option("--method", metavar="NAME", help="lm-infinite or full.", panel="Method")
    ] = "lm-infinite"
    window: Annotated[
        int | None,
        number("--window", help="Recent tokens at true distance.", panel="Method"),
    ] = None
    sinks: Annotated[
        int | None,
        number("--sinks", help="Starting tokens that stay visible.", panel="Method"),
    ] = None
    ceiling: Annotated[
        int | None,
        number("--ceiling", help="Distance at which they are seen.", panel="Method"),
    ] = None
    chunk: Annotated[
        int | None,
        number(
            "--chunk",
            help="Tokens read at once: 512, or 4,096 where weights lie on another device.",
            panel="Method",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """What is remembered of what lies between the first tokens and the window."""

    answer_from: Annotated[
        str,
        option(
            "--answer-from",
            metavar="NAME",
            help="auto, passages (read again), memory (top-k) or window.",
            panel="Memory",
        ),
    ] = "auto"
    no_memory: Annotated[
        bool, option("--no-memory", help="Remember nothing, find no evidence.", panel="Memory")
    ] = False
    memory_topk: Annotated[
        int | None,
        number("--memory-topk", help="Tokens a query head attends to.", panel="Memory"),
    ] = None
    memory_from_layer: Annotated[
        int | None, number("--memory-from-layer", help="First layer that does.", panel="Memory")
    ] = None
    memory_distance: Annotated[
        int | None,
        number("--memory-distance", help="Distance at which they stand.", panel="Memory"),
    ] = None
    memory_int8: Annotated[
        bool,
        option("--memory-int8", help="Keep the store in eight bits.", panel="Memory"),
    ] = False
    memory_budget: Annotated[
        int | None,
        number("--memory-budget", help="Bytes in RAM; the rest in files.", panel="Memory"),
    ] = None


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How an answer is generated."""

    max_new_tokens: Annotated[
        int,
        number("--max-new-tokens", "-n", help="Longest answer, in tokens.", panel="Generation"),
    ] = 256
    temperature: Annotated[
        float,
        option(
            "--temperature", metavar="X", help="0 takes the likeliest token.", panel="Generation"
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        option(
            "--top-p", metavar="X", help="Sample from this much probability.", panel="Generation"
        ),
    ] = 1.0
    top_k: Annotated[
        int, number("--top-k", help="Sample from this many tokens; 0: all.", panel="Generation")
    ] = 0
    seed: Annotated[int, number("--seed", help="Of the sampling.", panel="Generation")] = 0
    system: Annotated[
        str | None,
        option(
            "--system", "-s", metavar="TEXT", help="System text of the prompt.", panel="Generation"
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """How much is said on stderr."""

    quiet: Annotated[bool, option("--quiet", help="No progress, no report.", panel="Output")] = (
        False
    )
    verbose: Annotated[
        bool,
        option("--verbose", "-v", help="Progress lines off a terminal too.", panel="Output"),
    ] = False


@dataclass(frozen=True, slots=True)
class OutputOptions(MessageOptions):
    """Where results and messages go."""

    json: Annotated[
        bool, option("--json", help="One JSON object instead of text.", panel="Output")
    ] = False
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the result there, whole or not.",
            panel="Output",
        ),
    ] = None
    no_stream: Annotated[
        bool, option("--no-stream", help="Print answers when complete.", panel="Output")
    ] = False
    strict: Annotated[
        bool,
        option("--strict", help="Exit with 6 if any input was not used.", panel="Output"),
    ] = False


def deferred(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Turn a command with option groups into what Typer can call.

    Typer sees one flat signature, in which each dataclass parameter stands as its fields, and gets
    back the call to make: the work runs after parsing, outside of Typer's own error handling.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if not is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint))
            continue
        groups[name] = hint
        field_hints = get_type_hints(hint, include_extras=True)
        for item in fields(hint):
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            parameters.append(
                inspect.Parameter(
                    item.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=field_hints[item.name],
                )
            )

    def command(**arguments: Any) -> Callable[[], None]:
        built = {
            name: group(**{item.name: arguments.pop(item.name) for item in fields(group)})
            for name, group in groups.items()
        }
        return partial(function, **arguments, **built)

    flat = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__module__ = function.__module__
    return command
