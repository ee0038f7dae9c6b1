"""What a user asks of a command, as one object: the options that commands share.

Same name, same meaning, same environment variable everywhere. A command's own dataclass inherits
from :class:`Request`, lists the panels that it takes, and adds options of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lmi_cli.cli.arguments import Panel, method_options
from lmi_cli.engine import ANSWER_TOKENS
from lmi_cli.methods import METHODS

SOURCES, MODEL, METHOD, MEMORY = map(Panel, ("Sources", "Model", "Method", "Memory"))
GENERATION, OUTPUT, MESSAGES = map(Panel, ("Generation", "Output", "Messages"))

READS = (SOURCES, MODEL, METHOD, MEMORY, GENERATION, OUTPUT, MESSAGES)
"""Panels of a command that reads documents and answers."""

Texts = list[str] | None
"""The values of an option that may be repeated."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that commands share; one that a command does not take has its default."""

    panels: ClassVar[tuple[str, ...]] = ()

    include: Texts = SOURCES("--include GLOB", "In folders, read only files that match.")
    exclude: Texts = SOURCES("--exclude GLOB", "In folders, leave out files that match.")
    no_gitignore: bool = SOURCES("--no-gitignore", "Do not obey .gitignore files.", False)
    max_file_size: int | None = SOURCES("--max-file-size N", "In folders, skip larger files.")
    password_file: Path | None = SOURCES("--password-file FILE", "Holds the password of PDFs.")
    dry_run: bool = SOURCES("--dry-run", "Show what would be read and needed, and stop.", False)

    model: str | None = MODEL("--model -m NAME", "Known name, Hub id, folder or .gguf file.")
    revision: str | None = MODEL("--revision NAME", "Revision of a Hub model.")
    device: str = MODEL("--device NAME", "auto, cpu, cuda, cuda:1, ...", "auto")
    dtype: str = MODEL("--dtype NAME", "auto, bfloat16, float16 or float32.", "auto")
    quantize: str | None = MODEL("--quantize NAME", "int8 keeps eight bits of each weight (CPU).")
    device_map: str | None = MODEL("--device-map NAME", "Spread the model over devices: auto, ...")
    max_memory: str | None = MODEL("--max-memory SIZES", "For each device, as in 0=6GiB,cpu=16GiB.")
    offload_folder: Path | None = MODEL("--offload-folder FOLDER", "For weights that fit nowhere.")
    offline: bool = MODEL("--offline", "Use only what is on this machine.", False)

    method: str | None = METHOD("--method NAME", f"How to read long text: {', '.join(METHODS)}.")
    given: dict[str, int] = method_options(METHOD)
    chunk: int | None = METHOD("--chunk N", "Tokens in one pass; by default what suits the model.")

    answer_from: str = MEMORY("--answer-from NAME", "auto, passages, memory or window.", "auto")
    no_memory: bool = MEMORY("--no-memory", "Keep no index and no store: no evidence.", False)
    memory_int8: bool = MEMORY(
        "--memory-int8", "Keep the store in eight bits, at half the size.", False
    )
    memory_budget: int | None = MEMORY("--memory-budget N", "Bytes in memory; beyond them, files.")

    max_new_tokens: int = GENERATION("--max-new-tokens -n N", "Longest answer.", ANSWER_TOKENS)
    temperature: float = GENERATION("--temperature X", "0 always takes the likeliest token.", 0.0)
    top_p: float = GENERATION("--top-p X", "Sample from tokens up to this probability.", 1.0)
    top_k: int = GENERATION("--top-k N", "Sample from the N likeliest tokens; 0 takes all.", 0)
    seed: int = GENERATION("--seed N", "Seed of the random numbers.", 0)
    system: str | None = GENERATION("--system -s TEXT", "System text of the prompt.")

    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)
    output: Path | None = OUTPUT("--output -o FILE", "Write the result there, whole or not at all.")
    no_stream: bool = OUTPUT("--no-stream", "Print answers when they are complete.", False)
    strict: bool = OUTPUT("--strict", "Exit with code 6 if any input could not be used.", False)

    quiet: bool = MESSAGES("--quiet", "Show neither progress nor report.", False)
    verbose: bool = MESSAGES("--verbose -v", "Print progress even without a terminal.", False)
