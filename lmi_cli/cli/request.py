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

# What an option gives, or None where it is not given.
Text = str | None
Texts = list[str] | None
Count = int | None
File = Path | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that commands share; one that a command does not take has its default."""

    panels: ClassVar[tuple[str, ...]] = ()

    include: Texts = SOURCES("--include GLOB", "In folders, read only files that match.")
    exclude: Texts = SOURCES("--exclude GLOB", "In folders, leave out files that match.")
    no_gitignore: bool = SOURCES("--no-gitignore", "Read what .gitignore files exclude.", False)
    max_file_size: Count = SOURCES("--max-file-size N", "In folders, skip files of more bytes.")
    password_file: File = SOURCES("--password-file FILE", "Its first line opens encrypted PDFs.")
    dry_run: bool = SOURCES("--dry-run", "Show what would be read and needed, and stop.", False)

    model: Text = MODEL("--model -m NAME", "Name, Hub id, folder or .gguf file of the model.")
    revision: Text = MODEL("--revision NAME", "Branch, tag or commit of a Hub model.")
    device: str = MODEL("--device NAME", "Where to compute: auto, cpu, cuda, cuda:1, ...", "auto")
    dtype: str = MODEL("--dtype NAME", "auto, bfloat16, float16 or float32.", "auto")
    quantize: Text = MODEL("--quantize NAME", "int8: keep eight bits of each weight, on the CPU.")
    device_map: Text = MODEL("--device-map NAME", "Spread the model over devices: auto, ...")
    max_memory: Text = MODEL("--max-memory SIZES", "Limit each device, as in 0=6GiB,cpu=16GiB.")
    offload_folder: File = MODEL("--offload-folder FOLDER", "For weights that fit no device.")
    offline: bool = MODEL("--offline", "Use only what is on this machine.", False)

    method: Text = METHOD("--method NAME", f"How to read long text: {', '.join(METHODS)}.")
    given: dict[str, int] = method_options(METHOD)
    chunk: Count = METHOD("--chunk N", "Tokens in one pass; by default what suits the model.")

    answer_from: str = MEMORY("--answer-from NAME", "passages, memory, window or auto.", "auto")
    no_memory: bool = MEMORY("--no-memory", "Keep no index and no store: no evidence.", False)
    memory_int8: bool = MEMORY(
        "--memory-int8", "Keep the store in eight bits (half the size).", False
    )
    memory_budget: Count = MEMORY(
        "--memory-budget N", "Bytes to keep in memory; the rest in files."
    )

    max_new_tokens: int = GENERATION("--max-new-tokens -n N", "Longest answer.", ANSWER_TOKENS)
    temperature: float = GENERATION("--temperature X", "0 always takes the likeliest token.", 0.0)
    top_p: float = GENERATION("--top-p X", "Sample from the likeliest tokens up to this sum.", 1.0)
    top_k: int = GENERATION("--top-k N", "Sample from the N likeliest tokens; 0: from all.", 0)
    seed: int = GENERATION("--seed N", "Seed of the random numbers.", 0)
    system: Text = GENERATION("--system -s TEXT", "System text of the prompt.")

    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)
    output: File = OUTPUT("--output -o FILE", "Write the result to a file, whole or not at all.")
    no_stream: bool = OUTPUT("--no-stream", "Print answers when they are complete.", False)
    strict: bool = OUTPUT("--strict", "Exit with code 6 if any input could not be used.", False)

    quiet: bool = MESSAGES("--quiet", "Show neither progress nor report.", False)
    verbose: bool = MESSAGES("--verbose -v", "Show progress even without a terminal.", False)
