"""What a user asks of a command, as one object: the options that commands share.

Same name, same meaning, same environment variable everywhere. A command's own dataclass inherits
from :class:`Request`, lists the panels that it takes, and adds options of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lmi_cli.cli.arguments import method_options, option
from lmi_cli.engine import ANSWER_TOKENS
from lmi_cli.methods import METHODS

SOURCES, MODEL, METHOD, MEMORY = "Sources", "Model", "Method", "Memory"
GENERATION, OUTPUT, MESSAGES = "Generation", "Output", "Messages"

READS = (SOURCES, MODEL, METHOD, MEMORY, GENERATION, OUTPUT, MESSAGES)
"""Panels of a command that reads documents and answers."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that commands share; one that a command does not take has its default."""

    panels: ClassVar[tuple[str, ...]] = ()

    include: list[str] | None = option(
        SOURCES, "--include", "GLOB", "In folders, read only files that match."
    )
    exclude: list[str] | None = option(
        SOURCES, "--exclude", "GLOB", "In folders, leave out files that match."
    )
    no_gitignore: bool = option(
        SOURCES, "--no-gitignore", None, "Do not obey .gitignore files.", False
    )
    max_file_size: int | None = option(
        SOURCES, "--max-file-size", "N", "In folders, skip files larger than this many bytes."
    )
    password_file: Path | None = option(
        SOURCES,
        "--password-file",
        "FILE",
        "File whose first line is the password of encrypted PDFs.",
    )
    dry_run: bool = option(
        SOURCES, "--dry-run", None, "Show what would be read and needed, and stop.", False
    )

    model: str | None = option(
        MODEL, "--model -m", "NAME", "A name from `lmi models`, a Hub id, a folder or a .gguf file."
    )
    revision: str | None = option(MODEL, "--revision", "NAME", "Revision of a Hub model.")
    device: str = option(MODEL, "--device", "NAME", "auto, cpu, cuda, cuda:1, ...", "auto")
    dtype: str = option(MODEL, "--dtype", "NAME", "auto, bfloat16, float16 or float32.", "auto")
    quantize: str | None = option(
        MODEL,
        "--quantize",
        "NAME",
        "int8 keeps eight bits of each weight, on the CPU; none keeps all.",
    )
    device_map: str | None = option(
        MODEL, "--device-map", "NAME", "Spread the model over devices: auto, balanced, ..."
    )
    max_memory: str | None = option(
        MODEL, "--max-memory", "SIZES", "Memory to use on each device, as in 0=6GiB,cpu=16GiB."
    )
    offload_folder: Path | None = option(
        MODEL, "--offload-folder", "FOLDER", "Folder for weights that fit no device."
    )
    offline: bool = option(MODEL, "--offline", None, "Use only what is on this machine.", False)

    method: str | None = option(
        METHOD, "--method", "NAME", f"How the model attends to long text: {', '.join(METHODS)}."
    )
    given: dict[str, int] = method_options(METHOD)
    chunk: int | None = option(
        METHOD,
        "--chunk",
        "N",
        "Tokens read in one pass: 512, or 4,096 where weights are offloaded.",
    )

    answer_from: str = option(
        MEMORY,
        "--answer-from",
        "NAME",
        "What answers to a long text come from: auto, passages, memory or window.",
        "auto",
    )
    no_memory: bool = option(
        MEMORY,
        "--no-memory",
        None,
        "Keep nothing but the window: no passages and no evidence.",
        False,
    )
    memory_int8: bool = option(
        MEMORY, "--memory-int8", None, "Keep the store in eight bits, in half the memory.", False
    )
    memory_budget: int | None = option(
        MEMORY,
        "--memory-budget",
        "N",
        "Bytes of memory for index and store; beyond it they go to files.",
    )

    max_new_tokens: int = option(
        GENERATION, "--max-new-tokens -n", "N", "Longest answer, in tokens.", ANSWER_TOKENS
    )
    temperature: float = option(
        GENERATION,
        "--temperature",
        "X",
        "Randomness of the answer; 0 takes the likeliest token.",
        0.0,
    )
    top_p: float = option(
        GENERATION,
        "--top-p",
        "X",
        "Sample from the likeliest tokens that make up this probability.",
        1.0,
    )
    top_k: int = option(
        GENERATION, "--top-k", "N", "Sample from this many of the likeliest tokens; 0 takes all.", 0
    )
    seed: int = option(GENERATION, "--seed", "N", "Seed of the sampling.", 0)
    system: str | None = option(GENERATION, "--system -s", "TEXT", "System text of the prompt.")

    json: bool = option(OUTPUT, "--json", None, "Print one JSON object instead of text.", False)
    output: Path | None = option(
        OUTPUT, "--output -o", "FILE", "Write the result to this file, whole or not at all."
    )
    no_stream: bool = option(
        OUTPUT, "--no-stream", None, "Print answers when they are complete.", False
    )
    strict: bool = option(
        OUTPUT, "--strict", None, "Exit with code 6 if any input could not be used.", False
    )

    quiet: bool = option(MESSAGES, "--quiet", None, "Show neither progress nor report.", False)
    verbose: bool = option(
        MESSAGES, "--verbose -v", None, "Print progress lines where there is no terminal.", False
    )
