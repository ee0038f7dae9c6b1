"""The methods side by side: loss by position in a book, and passkeys by length and depth.

For each method, two commands are run with the default model: the loss of the first tokens of a
novel in pieces of 4,096, and one passkey at five depths of texts of several lengths, answered
without an index. A row of the table in ``docs/methods.md`` is printed as soon as it is known.

    python docs/compare_methods.py NOVEL.txt [--length N] [--lengths N,...] [--only NAME,...]
"""

import argparse
import json
import subprocess
import sys
from typing import Any

ROWS: dict[str, tuple[str, ...]] = {
    "lm-infinite": ("--method", "lm-infinite"),
    "truncate": ("--method", "truncate"),
    "streaming-llm": ("--method", "streaming-llm"),
    "self-extend": ("--method", "self-extend"),
    "full": ("--method", "full"),
    "full, linear": ("--method", "full", "--rope-scaling", "linear"),
    "full, dynamic": ("--method", "full", "--rope-scaling", "dynamic"),
    "full, yarn": ("--method", "full", "--rope-scaling", "yarn"),
    "full, truncated": ("--method", "full", "--rope-scaling", "truncated"),
}
"""Options by the name of the row."""


def lmi(*arguments: str) -> dict[str, Any]:
    """The JSON report of a command."""
    command = [sys.executable, "-m", "lmi_cli", *arguments, "--json", "--quiet"]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return report


def losses(novel: str, length: str, options: tuple[str, ...]) -> list[str]:
    """Mean loss of each piece; a last one of a single token is left out."""
    report = lmi("perplexity", novel, "--length", length, *options)
    curve = report["perplexity"]["curve"]
    return [f"{part['nll']:.4f}" for part in curve if part["tokens"] > 1]


def passkeys(lengths: str, options: tuple[str, ...]) -> list[str]:
    """Number of right answers, one for each depth, for each length."""
    report = lmi("passkey", "--lengths", lengths, "--no-memory", *options)
    right: dict[int, int] = {}
    for cell in report["cells"]:
        right[cell["length"]] = right.get(cell["length"], 0) + round(cell["accuracy"])
    return [str(count) for count in right.values()]


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("novel")
    parser.add_argument("--length", default="32769")
    parser.add_argument("--lengths", default="4k,8k,16k,32k")
    parser.add_argument("--only", default=",".join(ROWS).replace(", ", " "))
    chosen = parser.parse_args()
    wanted = chosen.only.split(",")
    for name, options in ROWS.items():
        if name.replace(", ", " ") in wanted:
            cells = losses(chosen.novel, chosen.length, options)
            cells += passkeys(chosen.lengths, options)
            sys.stdout.write(f"| {name} | " + " | ".join(cells) + " |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
