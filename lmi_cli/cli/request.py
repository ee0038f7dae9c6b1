"""The options that commands share, as one object that contains everything the user asked for.

A shared option has the same name, meaning and variable in every command. The request of a command
inherits from :class:`Request`, lists the panels that it takes and the options that it leaves out of
them, and adds its own options.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from lmi_cli.cli.arguments import Panel, method_options
from lmi_cli.cli.values import REREADING_BASES
from lmi_cli.engine import ANSWER_TOKENS, CONTRAST, MEASURES, SPECULATE
from lmi_cli.methods import METHODS, Parameter

SOURCES = Panel("Sources", closed="must not open what you keep closed")
MODEL = Panel("Model", closed="must not choose what is loaded, fetched or used of the machine")
METHOD, MEMORY, GENERATION = map(Panel, ("Method", "Memory", "Generation"))
OUTPUT, MESSAGES = (
    Panel(name, closed="must not change what is printed, checked or written")
    for name in ("Output", "Messages")
)
PROCESSES = Panel("Processes", closed="must not choose what is used of the machine")
"""Of commands whose work several processes can share."""

READS = (SOURCES, MODEL, METHOD, MEMORY, GENERATION, OUTPUT, MESSAGES)
"""Panels of a command that reads documents and answers questions."""

REREADING = tuple(REREADING_BASES)
"""Options under ``MEMORY`` of commands that answer questions."""

# Types of options; None means that the option is not used.
Text = str | None
Texts = list[str] | None
Count = int | None
File = Path | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The shared options; those that a command does not take keep their defaults.

    Attributes:
        standing: Names of the options whose values are from variables or configuration files.
    """

    panels: ClassVar[tuple[str, ...]] = ()
    omitted: ClassVar[tuple[str, ...]] = ()

    standing: frozenset[str] = frozenset()

    include: Texts = SOURCES("--include GLOB", "In folders, read only files that match.")
    exclude: Texts = SOURCES("--exclude GLOB", "In folders, skip files that match.")
    no_gitignore: bool = SOURCES("--no-gitignore", "Also read what .gitignore excludes.", False)
    include_secrets: bool = SOURCES(
        "--include-secrets", "In folders, also read files that may hold keys or passwords.", False
    )
    max_file_size: Count = SOURCES("--max-file-size N", "In folders, skip files above N bytes.")
    password_file: File = SOURCES("--password-file FILE", "File with the password for PDFs.")
    dry_run: bool = SOURCES("--dry-run", "Only show what would be read, and its cost.", False)

    model: Text = MODEL("--model -m NAME", "Name, Hub id, folder or .gguf file of the model.")
    revision: Text = MODEL("--revision NAME", "Branch, tag or commit of a Hub model.")
    device: str = MODEL("--device NAME", "Where to compute: auto, cpu, cuda, cuda:1, ...", "auto")
    dtype: str = MODEL("--dtype NAME", "auto, bfloat16, float16 or float32.", "auto")
    quantize: str = MODEL(
        "--quantize NAME",
        "auto (keeps blocks of a GGUF file), none, int8 or int4.",
        "auto",
    )
    device_map: Text = MODEL("--device-map NAME", "Spread weights over devices: auto, ...")
    max_memory: Text = MODEL("--max-memory SIZES", "Limits by device, as in 0=6GiB,cpu=16GiB.")
    offload_folder: File = MODEL(
        "--offload-folder FOLDER", "Folder for weights that fit no device."
    )
    threads: Count = MODEL(
        "--threads N", "Number of threads to compute with (default: one per core)."
    )
    offline: bool = MODEL("--offline", "Do not use the network.", False)

    method: Text = METHOD("--method NAME", f"How a long text is read: {', '.join(METHODS)}.")
    given: dict[str, Parameter] = method_options(METHOD)
    chunk: Count = METHOD("--chunk N", "Tokens per forward pass (default: chosen for the model).")

    answer_from: str = MEMORY(
        "--answer-from NAME",
        "Basis of answers about a long text: auto, passages, memory or window; or, read part by "
        "part with each question, xl3m (the segments behind which the model foresees the question "
        "best) or chain (notes that it takes on one part after the other).",
        "auto",
    )
    passages: Count = MEMORY(
        "--passages N",
        "Passages or segments that are read again at most (default: of passages, the best and "
        "perhaps its neighbour; of segments, as many as have room).",
    )
    passage_order: str = MEMORY(
        "--passage-order NAME",
        "Order in which passages stand in the prompt: document, best-last, or ends (the best at "
        "both ends).",
        "document",
    )
    segment_score: str = MEMORY(
        "--segment-score NAME",
        "What segments are ranked by: the likelihood of the question behind them, or the certainty "
        "of the model about it.",
        MEASURES[0],
    )
    index: Text = MEMORY(
        "--index NAME",
        "What finds passages: full (default), or heads, which reads faster and finds less.",
    )
    rank: str = MEMORY(
        "--rank NAME",
        "How passages are ranked: careful reads the best of them again, fast does not.",
        "careful",
    )
    no_memory: bool = MEMORY("--no-memory", "Keep neither an index nor a store.", False)
    memory_int8: bool = MEMORY("--memory-int8", "Store keys and values in eight bits.", False)
    memory_budget: Count = MEMORY(
        "--memory-budget N", "Bytes of RAM for index and store; the rest goes to files."
    )

    max_new_tokens: int = GENERATION(
        "--max-new-tokens -n N", "Longest answer, in tokens.", ANSWER_TOKENS
    )
    temperature: float = GENERATION("--temperature X", "Randomness; 0 is greedy decoding.", 0.0)
    top_p: float = GENERATION(
        "--top-p X", "Sample from the likeliest tokens whose probabilities add up to X.", 1.0
    )
    top_k: int = GENERATION("--top-k N", "Sample from the N likeliest tokens; 0 means all.", 0)
    seed: int = GENERATION("--seed N", "Seed for sampling.", 0)
    contrast: float = GENERATION(
        "--contrast X",
        "Weight against what the model would say without the passages; 0 turns this off.",
        CONTRAST,
    )
    speculate: str = GENERATION(
        "--speculate NAME",
        "Drafts of the next tokens, of which several are checked in one pass: suffix takes them "
        "from the text and earlier answers; auto does so where no token can change by it (models "
        "that lmi itself runs, with the library in C; elsewhere sums are rounded differently); "
        "none. Answers from the memory, and many that are written together, are not drafted.",
        SPECULATE[0],
    )
    system: Text = GENERATION("--system -s TEXT", "System text of the prompt.")
    show_prompt: bool = GENERATION(
        "--show-prompt", "Also show what the model was given, word for word.", False
    )

    processes: Count = PROCESSES(
        "--processes N",
        "Share the work among N processes on this machine; --threads are those of each.",
    )

    json: bool = OUTPUT("--json", "Print one JSON object instead of text.", False)
    output: File = OUTPUT("--output -o FILE", "Write the result to this file, whole or not at all.")
    no_stream: bool = OUTPUT("--no-stream", "Print each answer only when it is complete.", False)
    strict: bool = OUTPUT("--strict", "Exit with code 6 unless all input is used in full.", False)

    quiet: bool = MESSAGES("--quiet", "Print no progress and no report.", False)
    verbose: bool = MESSAGES("--verbose -v", "Print progress even without a terminal.", False)

    def without_standing(self, *names: str) -> Self:
        """The request with the defaults of these options where they are not on the command line.

        Names may be those of options of methods as well.
        """
        given_up = self.standing.intersection(names)
        given = {key: value for key, value in self.given.items() if key not in given_up}
        own: dict[str, Any] = {
            item.name: item.default for item in fields(self) if item.name in given_up
        }
        return replace(self, **own, given=given, standing=self.standing - given_up)
