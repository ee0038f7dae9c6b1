"""Two processes against one: the same results, and how much sooner.

    python docs/compare_processes.py NOVEL.txt [--pairs N] [--only eval|passkey|perplexity]
        [--processes N] [--kill]

Pieces of the novel with two questions each are evaluated, passkeys are looked for, and its first
tokens are scored, by one process with one thread and by several with one thread each, in turn, so
that whatever else the machine does disturbs both alike. All results but time and memory must be
equal. Printed for each pair are the seconds of both commands, from start to end, and their ratio;
in brackets those of processor time, of which several processes take more: each loads a model.

``--kill`` then kills one of the processes in the middle of each command, starts it again, and
compares what comes of it with the result of one process.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

PIECES, PIECE = 20, 14_000
"""Texts of the evaluation, and the characters of each: about 3,300 tokens."""
TIMED = ("memory", "timing")


def main() -> int:
    """Run what was asked for; exit code 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("novel", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=("eval", "passkey", "perplexity"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    right = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command, (arguments, keeps) in commands(options.novel, folder).items():
            if options.only in (None, command):
                right &= compare(command, arguments, options.processes, options.pairs)
            if options.kill and options.only in (None, command):
                kept = folder / ("kept" if command == "eval" else f"{command}.jsonl")
                right &= kill(command, arguments, keeps, kept, options.processes)
    return 0 if right else 1


def commands(novel: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    """The arguments of each command, and the option by which it keeps results."""
    text, records = novel.read_text(encoding="utf-8"), []
    for number in range(PIECES):
        piece = folder / f"{number}.txt"
        piece.write_text(text[number * PIECE : (number + 1) * PIECE], encoding="utf-8")
        for question in ("Who is spoken of here?", "Where does this happen?"):
            records.append({"document": piece.name, "question": question, "answers": ["Emma"]})
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "eval": ([questions, "-n", 40], "--predictions"),
        "passkey": (["--lengths", "4k", "--trials", 4], "--results"),
        "perplexity": (
            [novel, "--length", "20k", "--compare", "lm-infinite,streaming-llm"],
            "--results",
        ),
    }


def compare(command: str, arguments: list[object], count: int, pairs: int) -> bool:
    """Run pairs of both; print their times and whether results are equal."""
    ratios, same = [], True
    for number in range(pairs):
        ways: list[list[object]] = [[], ["--processes", count]]
        found = {}
        for way in ways if number % 2 == 0 else reversed(ways):
            found[len(way)] = timed(lmi(command, *arguments, *way))
        (one, one_s, one_cpu), (several, several_s, several_cpu) = found[0], found[2]
        same &= one == several
        ratios.append(one_s / several_s)
        result = "equal results" if one == several else "DIFFERENT RESULTS"
        print(
            f"{command}: {one_s:.1f} s ({one_cpu:.1f}), by {count} {several_s:.1f} s "
            f"({several_cpu:.1f}): {ratios[-1]:.2f} times as fast; {result}",
            flush=True,
        )
    if ratios:
        print(f"{command}: median {statistics.median(ratios):.2f}", flush=True)
    return same


def kill(command: str, arguments: list[object], keeps: str, kept: Path, count: int) -> bool:
    """Kill the last process when some results have been kept, start again, and compare."""
    whole, _, _ = timed(lmi(command, *arguments))
    several = lmi(command, *arguments, keeps, kept, "--processes", count)
    process = subprocess.Popen(several, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lines_of(kept) < 2 and process.poll() is None:
        time.sleep(0.05)
    done = lines_of(kept)
    children = sorted(child.pid for child in psutil.Process(process.pid).children())
    os.kill(children[-1], signal.SIGKILL)
    code = process.wait()
    again, _, _ = timed(several)
    result = "equal results" if again == whole else "DIFFERENT RESULTS"
    ended = f"killed when {done} results were there (exit code {code}), started again"
    print(f"{command}: {ended}: {result}", flush=True)
    return again == whole


def lines_of(kept: Path) -> int:
    """Number of results in a file, or in the files of a folder."""
    files = kept.glob("*/*.jsonl") if kept.is_dir() else [kept]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def lmi(*arguments: object) -> list[str]:
    """The command line of a command with one thread."""
    command = [sys.executable, "-m", "lmi_cli", *map(str, arguments)]
    return [*command, "--threads", "1", "--json", "--quiet"]


def timed(command: list[str]) -> tuple[Any, float, float]:
    """What a command prints, without time and memory, its seconds, and those of processors."""
    started, before = time.monotonic(), os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds, after = time.monotonic() - started, os.times()
    processors = after.children_user - before.children_user
    processors += after.children_system - before.children_system
    return untimed(json.loads(done.stdout)), seconds, processors


def untimed(value: Any) -> Any:
    """A report without what is different each time."""
    if isinstance(value, list):
        return [untimed(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: untimed(each)
        for name, each in value.items()
        if name not in TIMED and not name.endswith(("_s", "seconds"))
    }


if __name__ == "__main__":
    sys.exit(main())
