"""``lmi passkey``: whether the model finds what is hidden in a long text."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lmi_cli import __version__
from lmi_cli.cli import envelope
from lmi_cli.cli.arguments import Panel, counts
from lmi_cli.cli.choices import compared, memory_choice, method_choice, require_reading
from lmi_cli.cli.console import Output, columns, require_writable
from lmi_cli.cli.passkey_table import (
    ANSWER_COLUMNS,
    answer_rows,
    as_json,
    as_map,
    as_text,
    closing,
    tally,
    way_names,
)
from lmi_cli.cli.request import (
    MEMORY,
    MESSAGES,
    METHOD,
    MODEL,
    OUTPUT,
    PROCESSES,
    REREADING,
    Request,
)
from lmi_cli.cli.rows import write_rows
from lmi_cli.cli.session import Opened, Session, open_sources
from lmi_cli.cli.sharing import done_by_others, joined, require_files
from lmi_cli.cli.values import names
from lmi_cli.errors import NoInputError, RequirementError, UsageError
from lmi_cli.figures import THEMES, heat_maps, require_figure
from lmi_cli.journal import Journal
from lmi_cli.processes import Processes

if TYPE_CHECKING:
    from lmi_cli.tasks.needles import Needle
    from lmi_cli.tasks.passkey import CellDone
    from lmi_cli.tasks.passkey_report import PasskeyReport, PasskeyWay

GRID = Panel("Grid")
RESULTS = Panel("Results", closed=OUTPUT.closed)
_BASES = ("auto", "passages", "memory", "window")
_WIDTH = 100
"""Columns of a table that is not printed to a terminal."""
_MOST_TOKENS = 10**8


@dataclass(frozen=True, kw_only=True)
class PasskeyRequest(Request):
    """Options of ``lmi passkey``."""

    panels: ClassVar[tuple[str, ...]] = (MODEL, METHOD, MEMORY, PROCESSES, OUTPUT, MESSAGES)
    omitted: ClassVar[tuple[str, ...]] = ("no_stream", "strict", *REREADING)

    lengths: str = GRID("--lengths N,...", "Prompt lengths in tokens, as in 4k,16k.", "4k,8k")
    depths: str = GRID(
        "--depths X,...", "Positions of the key, in percent.", "0,25,50,75,100", envvar=False
    )
    trials: int = GRID("--trials N", "Number of prompts per length and depth.", 1)
    needle: str = GRID(
        "--needle NAME",
        "What is hidden: passkey; passkeys (several with names, of which one is asked for); "
        "key-value (a pair among pairs); or RULER's single, multi-key, multi-value, multi-query.",
        "passkey",
    )
    values: str | None = GRID(
        "--values NAME",
        "What its values are: numbers, words or uuids (default: numbers; for key-value, uuids).",
    )
    haystack: str | None = GRID(
        "--haystack NAME|FILE",
        "Where it is hidden: noise (default; the sentences of the paper), needles (others of its "
        "kind), or the text of a file.",
    )
    compare: str | None = GRID(
        "--compare NAME,...", "Methods to read by, side by side, instead of --method."
    )
    max_new_tokens: int = GRID(
        "--max-new-tokens -n N", "Longest answer, in tokens; 0 is what the needle needs.", 0
    )
    seed: int = GRID("--seed N", "Seed for the keys.", 0)
    answer_from: str = MEMORY(
        "--answer-from NAME,...",
        "Basis of answers about a long text: auto, passages, memory or window, or several of them "
        "side by side.",
        "auto",
    )
    results: Path | None = RESULTS(
        "--results FILE.jsonl",
        "Keep each answer there, a line each; an interrupted run goes on from it.",
    )
    csv: Path | None = RESULTS("--csv FILE", "Write a table with a row for each answer.")
    plot: Path | None = RESULTS(
        "--plot FILE", "Draw heat maps into this file (.png, .svg or .pdf)."
    )
    theme: str = RESULTS(
        "--theme NAME", f"Colours of the figure: {' or '.join(THEMES)}.", next(iter(THEMES))
    )
    min_accuracy: str | None = RESULTS(
        "--min-accuracy X",
        "End with exit code 8 if the accuracy over the whole grid is below this, as in 0.9 or 90%.",
    )


def command(request: PasskeyRequest) -> None:
    """Hide values at several depths of texts of several lengths, and ask for them."""
    with joined(request) as (own, processes):
        fault = _run(own, processes)
    if fault is not None:
        raise RequirementError(fault)


def _run(request: PasskeyRequest, processes: Processes) -> str | None:
    """Do it all; return what is wrong with the result if it is not as good as required."""
    lengths = list(dict.fromkeys(counts(request.lengths)))
    depths = _percentages(request.depths)
    if not lengths or not depths or request.trials < 1:
        raise UsageError("the grid is empty: lengths, depths and --trials start at 1")
    if (longest := max(lengths)) > _MOST_TOKENS:
        raise UsageError(f"--lengths {longest:,}: the largest is {_MOST_TOKENS:,} tokens")
    if request.max_new_tokens < 0:
        raise UsageError(f"--max-new-tokens {request.max_new_tokens}: the smallest is 0")
    least, ways = _required(request.min_accuracy), _ways(request)
    from lmi_cli.tasks.needles import Needle

    needle = Needle(request.needle, request.values)
    request = replace(request, max_new_tokens=request.max_new_tokens or needle.answer_tokens)
    sink = Output(request.output)
    require_writable(request.output, request.results, request.csv, request.plot)
    require_figure(request.plot, request.theme)
    Journal(request.results, {})  # another kind of file is refused before a model is loaded
    own_text = _own_text(request, needle)
    if done_by_others(request):
        return None
    with Session(request) as session:
        with processes.first():
            opened = session.load()
        from lmi_cli.tasks.haystacks import haystack_of
        from lmi_cli.tasks.method_for import chosen
        from lmi_cli.tasks.passkey import PasskeyGrid, passkey

        with processes.first():  # all begin with the same results
            journal = Journal(request.results, _identity(session, request, opened))
        if journal.damage is not None:
            session.say(journal.damage)
        tokenizer = opened.loaded.tokenizer
        grid = PasskeyGrid(
            lengths,
            depths,
            request.trials,
            needle,
            haystack_of(tokenizer, needle, request.seed, request.haystack, own_text),
            request.seed,
        )
        known = opened.loaded.known
        ways = [replace(way, choice=chosen(known, way.choice)) for way in ways]
        names = way_names(ways)

        def show(done: "CellDone") -> None:
            if request.verbose:
                cell, name = done.cell, names[ways.index(done.way)]
                which = f"{name}: " if len(ways) > 1 else ""
                said = f"{cell.length:,} tokens, key at {cell.depth:g} %: {tally(cell)}"
                session.say(which + said)

        task = passkey(
            opened.loaded,
            grid,
            ways,
            max_new_tokens=request.max_new_tokens,
            rank=request.rank,
            chunk=session.chunk(opened),
            journal=journal,
            processes=processes,
        )
        report = session.follow(task, "passkey", show)
    if processes.rank:
        return None
    if request.json:
        sink.write(as_json(opened, report, grid, request))
    else:
        width = (columns(sys.stdout) if request.output is None else None) or _WIDTH
        sink.write(as_text(report, width, colour=sink.coloured), coloured=True)
    sink.close()
    if request.csv is not None:
        write_rows(request.csv, answer_rows(report, grid), columns=ANSWER_COLUMNS)
    if request.plot is not None:
        heat_maps(
            request.plot,
            [as_map(way, name) for way, name in zip(report.ways, names, strict=True)],
            row_label="depth",
            column_label="length in tokens",
            value_label="right answers in percent",
            theme=request.theme,
        )
    for line in closing(report):
        session.say(line)
    return None if least is None else _shortfall(report, names, least)


def _percentages(text: str) -> list[float]:
    try:
        values = [float(part.strip().rstrip("%")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--depths {text!r}: expected percentages, as in 0,50,100") from None
    if any(not 0 <= value <= 100 for value in values):
        raise UsageError(f"--depths {text!r}: expected percentages from 0 to 100")
    return list(dict.fromkeys(values))


def _required(text: str | None) -> float | None:
    """The least accuracy that was asked for, from 0 to 1."""
    if text is None:
        return None
    try:
        share = float(text.strip().rstrip("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--min-accuracy {text!r}: expected a share, as in 0.9 or 90%")
    return share


def _ways(request: PasskeyRequest) -> "list[PasskeyWay]":
    """Each method with each basis of answers; of several bases, only the memory is searched."""
    from lmi_cli.tasks.passkey_report import PasskeyWay
    from lmi_cli.tasks.plan import PARTWISE

    bases = names(request.answer_from)
    if not bases or len(set(bases)) < len(bases):
        raise UsageError("--answer-from needs bases of answers, each once", hint=", ".join(_BASES))
    for name in bases:
        if name not in (*_BASES, *PARTWISE):
            raise UsageError(
                f"unknown value {name!r} for --answer-from", hint="one of " + ", ".join(_BASES)
            )
    methods = [request] if request.compare is None else compared(request, request.compare)
    ways = []
    for method in methods:
        for basis in bases:
            each = replace(method, answer_from=basis)
            require_reading(each)
            choice = method_choice(each)
            if basis != "memory" and "memory" in bases:
                each = replace(each, given=choice.fixed)
            ways.append(PasskeyWay(method_choice(each), memory_choice(each)))
    return ways


def _own_text(request: PasskeyRequest, needle: "Needle") -> str | None:
    """The text of the haystack, if it is one of the user's."""
    from lmi_cli.tasks.haystacks import HAYSTACKS, require_haystack

    require_haystack(needle, request.haystack)
    if request.haystack is None or request.haystack in HAYSTACKS:
        return None
    if Path(request.haystack).is_dir():
        raise UsageError(f"--haystack {request.haystack} is a folder", hint="name a file")
    require_files(request, [request.haystack])
    corpus = open_sources([request.haystack], request)
    text = "".join(block.text for block in corpus.blocks)
    if not corpus.sources:
        reason = corpus.skipped[0].reason if corpus.skipped else "it has no text"
        raise NoInputError(f"--haystack {request.haystack}: {reason}")
    return text


def _identity(session: Session, request: PasskeyRequest, opened: Opened) -> dict[str, Any]:
    """What all results depend on, beside their units."""
    model = envelope.model_object(opened)
    options = ("max_new_tokens", "rank", "index", "no_memory", "memory_int8")
    return {
        "command": "passkey",
        "lmi_version": __version__,
        "model": {name: model[name] for name in ("id", "identity", "dtype", "quantize")},
        "options": {name: getattr(request, name) for name in options}
        | {"chunk": session.chunk(opened)},
    }


def _shortfall(report: "PasskeyReport", names: Sequence[str], least: float) -> str | None:
    """What is wrong if one of the ways has a lower accuracy than was asked for."""
    low = [
        f"{way.accuracy:.1%}" + (f" of {name}" if len(names) > 1 else "")
        for way, name in zip(report.ways, names, strict=True)
        if way.accuracy < least
    ]
    return f"accuracy {', '.join(low)} is below --min-accuracy {least:.1%}" if low else None
