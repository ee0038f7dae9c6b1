"""The table of ``docs/methods.md``: every method beside the others, with the default model.

    python docs/compare_methods.py NOVEL.txt QUESTIONS.json RESULTS.jsonl [--minutes N]
        [--only "ROW;..."] [--parts PART,...] [--length N] [--lengths N,...] [--depth N] [--show]

For each row, these parts are measured, each by a command of ``lmi``:

* ``loss``: mean loss of each piece of 4,096 tokens of the beginning of a novel;
* ``passkey``: one passkey at each of five depths of texts of several lengths, without an index; of
  a text, what stands before the key is read once for all depths;
* ``questions``: right answers about the document that stands beside the questions, from passages,
  and how often the right page is first or among the first five of the evidence;
* ``own``: right answers from what the method itself sees (``--answer-from window``);
* ``speed``: prefill to a depth, decode there, and the size of the cache.

Each result is a line of RESULTS.jsonl as soon as it is known, with the seconds that it took. What
stands there is not measured again, so that the work can be stopped at any time and go on later;
``--minutes`` begins nothing new after so long. At the end the table of all results is printed;
``--show`` prints it alone. A row whose options say how to answer (``--answer-from``) is read like
the row without them, so it has no loss and no speed of its own.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmi_cli.sources import open_corpus

Options = tuple[str, ...]

ROWS: list[tuple[str, Options]] = [
    ("lm-infinite", ("--method", "lm-infinite")),
    ("lm-infinite, memory", ("--method", "lm-infinite", "--answer-from", "memory")),
    ("lm-infinite, dense heads", ("--method", "lm-infinite", "--dense-heads", "calibrated")),
    ("inf-llm", ("--method", "inf-llm")),
    ("sir-llm", ("--method", "sir-llm")),
    ("segments", ("--answer-from", "xl3m")),
    ("truncate", ("--method", "truncate")),
    ("truncate, middle", ("--method", "truncate", "--truncation-side", "middle")),
    ("streaming-llm", ("--method", "streaming-llm")),
    ("self-extend", ("--method", "self-extend")),
    ("full", ("--method", "full")),
    ("full, linear", ("--method", "full", "--rope-scaling", "linear")),
    ("full, dynamic", ("--method", "full", "--rope-scaling", "dynamic")),
    ("full, yarn", ("--method", "full", "--rope-scaling", "yarn")),
    ("full, truncated", ("--method", "full", "--rope-scaling", "truncated")),
]
"""Name of the row, and the options that make it."""

PARTS = ("loss", "passkey", "questions", "own", "speed")
DEPTHS = (0, 25, 50, 75, 100)
PIECE = 4096
ANSWER_TOKENS = 60


class RefusedError(Exception):
    """A command that says that it cannot do this; the message is its first line."""


def lmi(*arguments: object) -> dict[str, Any]:
    """The JSON report of a command.

    Raises:
        RefusedError: Usage, model or resource do not allow it.
        RuntimeError: It failed in another way.
    """
    command = [sys.executable, "-m", "lmi_cli", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode in (2, 4, 5):
        raise RefusedError(done.stderr.strip().splitlines()[0].removeprefix("lmi: "))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def losses(novel: str, length: int, options: Options) -> list[float]:
    """Mean loss of each piece; a last one of a single token is left out."""
    curve = lmi("perplexity", novel, "--length", length, *options)["perplexity"]["curve"]
    return [round(part["nll"], 4) for part in curve if part["tokens"] > 1]


def passkey(length: str, options: Options) -> list[int]:
    """By depth, 1 if the key is found, otherwise 0."""
    plain = () if "--answer-from" in options else ("--no-memory",)
    depths = ",".join(map(str, DEPTHS))
    report = lmi("passkey", "--lengths", length, "--depths", depths, *plain, *options)
    return [int(cell["accuracy"]) for cell in report["cells"]]


def pages_of(document: Path, patterns: Sequence[str]) -> list[set[int | None]]:
    """Pages on which each of the patterns begins or ends, white space folded."""
    folded, pages = list[str](), list[int | None]()
    for block in open_corpus([str(document)]).blocks:
        text = re.sub(r"\s+", " ", block.text)
        if folded and folded[-1].endswith(" "):
            text = text.lstrip()
        folded.append(text)
        pages += [block.page] * len(text)
    whole = "".join(folded)
    return [
        {pages[at] for found in re.finditer(p, whole) for at in (found.start(), found.end() - 1)}
        for p in patterns
    ]


def questions(path: Path, options: Options) -> dict[str, int]:
    """Right answers, and right pages first and among the first five of the evidence."""
    asked = json.loads(path.read_text(encoding="utf-8"))
    items, document = asked["questions"], path.with_name(asked["document"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(item["q"] + "\n" for item in items))
        file.flush()
        report = lmi("qa", document, "--questions", file.name, "-n", ANSWER_TOKENS, *options)
    counts = {"asked": len(items), "right": 0, "first": 0, "among five": 0}
    golds = pages_of(document, [item["gold"] for item in items])
    for item, gold, answer in zip(items, golds, report["answers"], strict=True):
        pages = [each["page"] for each in answer["evidence"]][:5]
        counts["first"] += bool(pages) and pages[0] in gold
        counts["among five"] += bool(gold & set(pages))
        counts["right"] += bool(re.search(item["answer"], answer["answer"], re.IGNORECASE))
    return counts


def speed(depth: int, options: Options) -> dict[str, Any]:
    """Tokens per second, size of the cache, and whether a token takes one call of the library."""
    limits = ("--depths", depth, "--decode", 32, "--against", "none")
    report = lmi("bench", *limits, *options)
    (row,) = report["rows"]
    decode = report["computed"]["decode"]
    found = {name: row[name] for name in ("prefill_tok_per_s", "decode_tok_per_s", "cache_bytes")}
    return found | {"one call": decode["one_call"] == decode["passes"]}


Cell = tuple[str, Callable[[], Any]]


def cells_of(options: Options, given: argparse.Namespace) -> Iterator[Cell]:
    """Name of each cell of a row, and what measures it."""
    answers = "--answer-from" in options
    if "loss" in given.parts and not answers:
        yield f"loss {given.length}", partial(losses, given.novel, given.length, options)
    if "passkey" in given.parts:
        for length in given.lengths:
            yield f"passkey {length}", partial(passkey, length, options)
    if "questions" in given.parts:
        yield "questions", partial(questions, given.questions, options)
    if "own" in given.parts and not answers:
        own = (*options, "--answer-from", "window")
        yield "own", partial(questions, given.questions, own)
    if "speed" in given.parts and not answers:
        yield f"speed {given.depth}", partial(speed, given.depth, options)


Results = dict[tuple[str, str], dict[str, Any]]


def known(path: Path) -> Results:
    """Results so far by row and cell; those of a row that has other options now are left out."""
    options = {name: list(row) for name, row in ROWS}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    return {(r["row"], r["cell"]): r for r in results if options.get(r["row"]) == r["options"]}


def measured(measure: Callable[[], Any]) -> dict[str, Any]:
    """The value of a cell, or why there is none; seconds, and those of all processors together."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        found: dict[str, Any] = {"value": measure()}
    except RefusedError as error:
        found = {"refused": str(error)}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found | {"seconds": round(time.perf_counter() - started, 1), "cpu_s": round(cpu, 1)}


def measure_all(given: argparse.Namespace, results: Results) -> None:
    """Measure what is not known yet, line by line."""
    latest = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    for name, options in ROWS:
        if given.only and name not in given.only:
            continue
        for cell, measure in cells_of(options, given):
            if (name, cell) in results:
                continue
            if latest is not None and time.monotonic() > latest:
                sys.stderr.write("the time is over; the same command goes on here\n")
                return
            result = {"row": name, "cell": cell, "options": options} | measured(measure)
            results[name, cell] = result
            line = json.dumps(result)
            with given.results.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            sys.stderr.write(line + "\n")


def table(results: Results, given: argparse.Namespace) -> str:
    """All results in two tables of the same rows, then what was refused and why."""
    pieces = -(-(given.length - 1) // PIECE)
    heads = [f"{PIECE * piece:,}" for piece in range(pieces)]
    heads += [f"{length} of 5" for length in given.lengths]
    more = ["right answers", "first page", "among five", "own view", "prefill", "decode", "cache"]
    first, second, reasons, seconds = [heads], [more], [], []
    for name, _ in ROWS:
        of_row = {cell: result for (row, cell), result in results.items() if row == name}
        if not of_row:
            continue
        for cell, result in of_row.items():
            if "refused" in result:
                reasons.append(f"{name}, {cell}: {result['refused']}")
        values = {cell: result.get("value") for cell, result in of_row.items()}
        loss = values.get(f"loss {given.length}") or []
        line = [f"{each:.4f}" for each in loss] + ["-"] * (pieces - len(loss))
        for length in given.lengths:
            found = values.get(f"passkey {length}")
            line.append("-" if found is None else str(sum(found)))
        first.append([name, *line])
        asked, own = values.get("questions") or {}, values.get("own") or {}
        line = [str(asked.get(key, "-")) for key in ("right", "first", "among five")]
        line.append(str(own.get("right", "-")))
        ran = values.get(f"speed {given.depth}")
        line += (
            ["-"] * 3
            if ran is None
            else [
                f"{ran['prefill_tok_per_s']:,.0f}",
                f"{ran['decode_tok_per_s']:,.1f}" + ("" if ran["one call"] else " (by layer)"),
                f"{ran['cache_bytes'] / 2**20:,.0f} MiB",
            ]
        )
        second.append([name, *line])
        spent = [sum(result[key] for result in of_row.values()) for key in ("seconds", "cpu_s")]
        seconds.append(f"{name}: {spent[0]:,.0f} s, {spent[1]:,.0f} s of processors")
    parts = [markdown(rows) for rows in (first, second)]
    return "\n".join([*parts, "\n".join(reasons), "", "\n".join(seconds), ""])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the heading, without its first column."""
    lines = [["method", *rows[0]], ["---"] * (len(rows[0]) + 1), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])

    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("novel")
    parser.add_argument("questions", type=Path, help="their document stands beside them")
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", type=lambda text: text.split(";"), help="rows, with ; between")
    parser.add_argument("--parts", type=names, default=list(PARTS))
    parser.add_argument("--length", type=int, default=8 * PIECE + 1)
    parser.add_argument("--lengths", type=names, default=["4k", "8k", "16k", "32k"])
    parser.add_argument("--depth", type=int, default=16384)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if wrong := set(given.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(wrong))}")
    if wrong := set(given.only or ()) - {name for name, _ in ROWS}:
        parser.error(f"unknown rows: {'; '.join(sorted(wrong))}")
    results = known(given.results)
    if not given.show:
        measure_all(given, results)
    sys.stdout.write(table(results, given))


if __name__ == "__main__":
    main()
