"""From option groups to the requests that tasks take, and the model loaded on the way."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmi_cli.cli.console import message
from lmi_cli.cli.options import (
    GenerationOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.errors import PartialError, UsageError

if TYPE_CHECKING:
    from lmi_cli.models.load import Loaded, Placement
    from lmi_cli.sources import Corpus, ReadOptions
    from lmi_cli.tasks.methodchoice import MethodChoice
    from lmi_cli.tasks.reading import AnswerOptions


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


def open_sources(paths: Sequence[str], options: SourceOptions) -> "Corpus":
    """The stream behind paths and ``-``.

    Raises:
        UsageError: A path does not exist, or ``-`` stands twice.
    """
    from lmi_cli.sources import open_corpus

    return open_corpus(
        paths, _read_options(options), stdin=None if sys.stdin is None else sys.stdin.buffer
    )


def open_model(options: ModelOptions, output: OutputOptions, progress: ProgressDisplay) -> Opened:
    """Resolve and load the model."""
    started = time.monotonic()
    progress.show("loading model", 0, None, "MiB")
    from lmi_cli.models.store import resolve

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
