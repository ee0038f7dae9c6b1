"""From option groups to the requests that tasks take, and the model loaded on the way."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmi_cli.cli.console import message
from lmi_cli.cli.options import (
    GenerationOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.errors import PartialError, StateFileError, UsageError

if TYPE_CHECKING:
    from lmi_cli.models.load import Loaded, Placement
    from lmi_cli.sources import Corpus, ReadOptions
    from lmi_cli.tasks.events import Note, Progress
    from lmi_cli.tasks.methodchoice import MemoryChoice, MethodChoice
    from lmi_cli.tasks.reading import AnswerOptions, Reading


_BUDGET_SHARE = 4
"""Index and store may take this part (one over it) of the machine's memory."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model and what loading it took."""

    loaded: "Loaded"
    load_s: float


def say(text: str, output: OutputOptions) -> None:
    """One line for the user, on stderr."""
    if not output.quiet:
        message(text)


def piped_source() -> str:
    """``-``, if something is piped in.

    Raises:
        UsageError: Nothing is.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no source", hint="name a file or a folder, or pipe text in")
    return "-"


def open_sources(
    paths: Sequence[str], options: SourceOptions, *, follows: bool = False
) -> "Corpus":
    """The stream behind paths and ``-``.

    Raises:
        UsageError: A path does not exist, or ``-`` stands twice.
    """
    from lmi_cli.sources import open_corpus

    return open_corpus(
        paths,
        _read_options(options),
        stdin=None if sys.stdin is None else sys.stdin.buffer,
        follows=follows,
    )


def open_model(options: ModelOptions, output: OutputOptions, progress: ProgressDisplay) -> Opened:
    """Resolve and load the model."""
    started = time.monotonic()
    progress.show("loading model", 0, None, "MiB")
    from lmi_cli.checkpoints.resolve import resolve

    files = resolve(
        options.model,
        offline=options.offline,
        revision=options.revision,
        progress=progress.bytes,
    )
    progress.clear()
    for note in files.notes:
        say(note, output)
    progress.show("loading model", 0, None, "MiB")
    from lmi_cli.models.load import load

    loaded = load(files, _placement(options))
    progress.clear()
    return Opened(loaded, time.monotonic() - started)


def state_file(paths: Sequence[str]) -> "Path | None":
    """The state file among the arguments, which then is the only one.

    Raises:
        UsageError: It is named with other sources.
    """
    from lmi_cli.tasks.signature import is_state_file

    books = [path for path in paths if path != "-" and is_state_file(Path(path))]
    if books and len(paths) > 1:
        raise UsageError(
            f"{books[0]} is a state file and stands alone",
            hint=f"lmi read --append {books[0]} reads more into it",
        )
    return Path(books[0]) if books else None


def require_target(path: Path) -> None:
    """Refuse to write a state file where it would replace something else.

    Raises:
        UsageError: There is no such folder, or another kind of file is there.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder")
    if path.exists() and state_file([str(path)]) is None:
        raise UsageError(f"{path} exists and is no state file", hint="choose another name")


def open_book(
    path: Path,
    model: ModelOptions,
    method: MethodOptions,
    answering: "AnswerOptions",
    memory: "MemoryChoice",
    output: OutputOptions,
    progress: ProgressDisplay,
) -> "tuple[Opened, Reading]":
    """The reading that a state file holds, on its model.

    Raises:
        StateFileError: The file is damaged, or what is asked for differs from what it was read by.
    """
    choice = method_choice(method)
    from lmi_cli.tasks import book

    facts = book.facts_of(path)
    if not facts.complete:
        raise StateFileError(
            f"{path} is a reading that was interrupted", hint="run the same lmi read again"
        )
    book.check(facts, choice, model.dtype, model.quantize, None)
    wanted = replace(
        model,
        model=facts.model if model.model is None else model.model,
        dtype=facts.dtype if model.dtype == "auto" else model.dtype,
        quantize=facts.quantize,
    )
    for change in book.changes(facts):
        say(change, output)
    opened = open_model(wanted, output, progress)
    return opened, book.restore(path, opened.loaded, answering, memory, choice)


def chunk_of(options: MethodOptions, opened: Opened) -> int:
    """Tokens in one forward pass: what the user asked for, or what suits the model."""
    return options.chunk or opened.loaded.lm.chunk


def open_reading(
    path: Path | None,
    model: ModelOptions,
    method: MethodOptions,
    answering: "AnswerOptions",
    memory: "MemoryChoice",
    output: OutputOptions,
    progress: ProgressDisplay,
) -> "tuple[Opened, Reading]":
    """A reading on its model: the one in the state file ``path``, or one that has read nothing.

    Raises:
        StateFileError: See :func:`open_book`.
    """
    if path is not None:
        return open_book(path, model, method, answering, memory, output, progress)
    choice = method_choice(method)
    opened = open_model(model, output, progress)
    from lmi_cli.tasks.reading import Reading

    return opened, Reading(opened.loaded, choice, answering, memory, chunk=chunk_of(method, opened))


def show_reading(
    events: "Iterable[Progress | Note]", output: OutputOptions, progress: ProgressDisplay
) -> None:
    """Follow a reading to its end on stderr."""
    from lmi_cli.tasks.events import Progress

    for event in events:
        if isinstance(event, Progress):
            progress.show("reading", event.tokens, event.total)
        else:
            progress.clear()
            say(event.text, output)
    progress.clear()


def method_choice(options: MethodOptions) -> "MethodChoice":
    """The method the user asked for.

    Raises:
        UsageError: A number is out of range.
    """
    from lmi_cli.tasks.methodchoice import MethodChoice

    for name, value in (("chunk", options.chunk), ("ceiling", options.ceiling)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: the smallest is 1 token")
    choice = MethodChoice(options.method, options.window, options.sinks, options.ceiling)
    choice.build(default_window=1, prefix=0)  # what contradicts itself does so for any model
    return choice


def memory_choice(options: MemoryOptions, *, keep: str | None = None) -> "MemoryChoice":
    """What is kept while reading and how questions use it.

    Args:
        options: As given.
        keep: ``index``, ``store`` or ``both``; None keeps what the answers need.

    Raises:
        UsageError: Options contradict each other.
    """
    import psutil

    from lmi_cli.tasks.methodchoice import NO_MEMORY, MemoryChoice

    if options.no_memory:
        if options.answer_from not in ("auto", "window"):
            raise UsageError(f"--no-memory leaves nothing for --answer-from {options.answer_from}")
        return NO_MEMORY
    if keep not in (None, "index", "store", "both"):
        raise UsageError(f"keep {keep!r} is not known", hint="one of index, store, both")
    budget = options.memory_budget
    if budget is None:
        budget = psutil.virtual_memory().total // _BUDGET_SHARE
    elif budget < 0:
        raise UsageError(f"memory-budget {budget}: the smallest is 0 bytes")
    numbers = (options.memory_topk, options.memory_from_layer, options.memory_distance)
    asked = options.answer_from
    if asked == "auto" and any(value is not None for value in numbers):
        asked = "memory"
    if keep is None:
        keep = "both" if asked == "memory" else "index"
    return MemoryChoice(
        answer_from=asked,
        index=keep != "store",
        store=keep != "index",
        topk=options.memory_topk,
        from_layer=options.memory_from_layer,
        distance=options.memory_distance,
        int8=options.memory_int8,
        budget_bytes=budget,
    )


def answer_options(options: GenerationOptions, *, instruction: bool = False) -> "AnswerOptions":
    """How to ask and to answer; an ``instruction`` is not labelled as a question.

    Raises:
        UsageError: A number is out of range.
    """
    from lmi_cli.engine.sampling import Sampling
    from lmi_cli.tasks.reading import AnswerOptions
    from lmi_cli.text.prompts import QUESTION_LABEL

    if options.max_new_tokens < 1:
        raise UsageError(f"max-new-tokens {options.max_new_tokens}: the smallest is 1")
    sampling = Sampling(options.temperature, options.top_p, options.top_k, options.seed)
    return AnswerOptions(
        system=options.system,
        label="" if instruction else QUESTION_LABEL,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling,
    )


def require_whole_input(corpus: "Corpus", output: OutputOptions) -> None:
    """Under ``--strict``, refuse a result that part of the input did not go into.

    Raises:
        PartialError: A source was skipped or read with issues.
    """
    from lmi_cli.sources import is_by_rule

    if not output.strict:
        return
    failed = [f"{item.origin} ({item.reason})" for item in corpus.skipped if not is_by_rule(item)]
    failed += [
        f"{source.origin} ({source.issues[0]})" for source in corpus.sources if source.issues
    ]
    if failed:
        raise PartialError(f"{len(failed)} input(s) not used in full: {'; '.join(failed[:5])}")


def _read_options(options: SourceOptions) -> "ReadOptions":
    from lmi_cli.sources import ReadOptions

    if options.max_file_size is not None and options.max_file_size < 0:
        raise UsageError(f"max-file-size {options.max_file_size}: the smallest is 0 bytes")
    password = None
    if options.password_file is not None:
        try:
            lines = options.password_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(f"password file {options.password_file}: {reason}") from error
        if not lines:
            raise UsageError(f"password file {options.password_file}: no password in it")
        password = lines[0]
    defaults = ReadOptions()
    return ReadOptions(
        include=tuple(options.include or ()),
        exclude=tuple(options.exclude or ()),
        gitignore=not options.no_gitignore,
        max_file_size=(
            defaults.max_file_size if options.max_file_size is None else options.max_file_size
        ),
        password=password,
    )


def _placement(options: ModelOptions) -> "Placement":
    from lmi_cli.models.load import Placement

    return Placement(
        dtype=options.dtype,
        device=options.device,
        device_map=options.device_map,
        max_memory=_max_memory(options.max_memory),
        offload_folder=options.offload_folder,
        quantize=options.quantize or "none",
    )


def _max_memory(text: str | None) -> dict[int | str, str] | None:
    if text is None:
        return None
    limits: dict[int | str, str] = {}
    for part in text.split(","):
        device, equals, limit = part.strip().partition("=")
        if not (device and equals and limit):
            raise UsageError(f"max-memory {text!r}: expected DEVICE=SIZE[,...], as in 0=6GiB")
        limits[int(device) if device.isdigit() else device] = limit
    return limits
