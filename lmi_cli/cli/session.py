"""A session: one run of a command, which opens the model and the documents it was asked for.

Heavy modules are imported only when they are needed.
"""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lmi_cli.cache.signature import is_state_file
from lmi_cli.cli.choices import (
    answer_options,
    memory_choice,
    method_choice,
    placement_of,
    prompts_of,
    read_options,
    reading_request,
    require_no_method,
    sampling_of,
)
from lmi_cli.cli.console import message
from lmi_cli.cli.progress import ProgressDisplay
from lmi_cli.cli.request import Request
from lmi_cli.errors import PartialError, UsageError
from lmi_cli.methods import METHODS

if TYPE_CHECKING:
    from lmi_cli.models.known import KnownModel
    from lmi_cli.models.load import Loaded
    from lmi_cli.models.placement import Placement
    from lmi_cli.sources import Corpus
    from lmi_cli.sources.blocks import Skipped, Source
    from lmi_cli.tasks.asking import AnswerOptions
    from lmi_cli.tasks.reading import Reading

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model and the seconds that loading it took."""

    loaded: "Loaded"
    load_s: float


class Session:
    """A context manager that opens what a command needs and reports on stderr what it does."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.progress = ProgressDisplay(quiet=request.quiet, verbose=request.verbose)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.__exit__(*error)

    def say(self, text: str) -> None:
        """Print one line on stderr, unless ``--quiet`` is set."""
        if not self.request.quiet:
            message(text)

    def follow(
        self,
        task: "Generator[Any, None, Report]",
        activity: str,
        show: Callable[[Any], object] = lambda event: None,
    ) -> Report:
        """Run a task to its end; show progress and notes, and pass other events to ``show``."""
        from lmi_cli.tasks.events import Note, Progress, follow

        def shown(event: object) -> None:
            if isinstance(event, Progress):
                self.progress.show(activity, event.done, event.total, event.unit, note=event.note)
                return
            self.progress.clear()
            if isinstance(event, Note):
                self.say(event.text)
            else:
                show(event)

        report = follow(task, shown)
        self.progress.clear()
        return report

    def known_model(
        self, name: str | None = None, placement: "Placement | None" = None
    ) -> "KnownModel":
        """Resolve a model, which is fetched and converted on first use; its weights stay unread.

        ``name`` and ``placement`` override those of the request.
        """
        request, placement = self.request, placement or placement_of(self.request)
        self.progress.show("loading model", 0, None, "MiB")
        from lmi_cli.checkpoints.resolve import resolve

        files = resolve(
            name or request.model,
            offline=request.offline,
            revision=request.revision,
            progress=self.progress.bytes,
        )
        for note in files.notes:
            self.progress.clear()
            self.say(note)
        self.progress.show("loading model", 0, None, "MiB")
        from lmi_cli.models.known import known_model

        known = known_model(files, placement)
        self.progress.clear()
        for note in known.notes:
            self.say(note)
        return known

    def load(self, name: str | None = None, placement: "Placement | None" = None) -> Opened:
        """Resolve and load a model; arguments as for :meth:`known_model`."""
        started = time.monotonic()
        known = self.known_model(name, placement)
        self.progress.show("loading model", 0, None, "MiB")
        from lmi_cli.models.load import load_known

        loaded = load_known(known)
        self.progress.clear()
        for note in loaded.notes:
            self.say(note)
        return Opened(loaded, time.monotonic() - started)

    def chunk(self, opened: Opened) -> int:
        """Tokens in one forward pass: as the user asked, or as suits the model."""
        return self.request.chunk or opened.loaded.lm.chunk

    def open_state_file(
        self, path: Path, *, keep: Sequence[str] | None = None
    ) -> "tuple[Opened, Reading]":
        """Load the model of a state file and restore the reading saved in it.

        ``keep`` names the stores that must be in the file; None accepts any.

        Raises:
            StateFileError: The file is damaged, or the request differs from how it was read.
        """
        placement = placement_of(self.request)
        from lmi_cli.tasks import statefile

        header = statefile.header_of(path)
        statefile.require_complete(header)
        self.request = self.request.without_standing(*_decided(header.method["name"]))
        asked = self.request.method
        self.request = replace(self.request, method=asked or header.method["name"])
        statefile.check(
            header,
            method=asked,
            given=method_choice(self.request).fixed,
            dtype=self.request.dtype,
            quantize=self.request.quantize,
            keep=keep,
            index=self.request.index,
        )
        statefile.require_kept(header, memory_choice(self.request).answer_from)
        for change in statefile.changes(header):
            self.say(change)
        # Where blocks cannot be kept, the same weights in the dtype take their place.
        kept = "auto" if header.quantize == "blocks" else header.quantize
        placement = replace(placement, dtype=header.dtype, quantize=kept)
        opened = self.load(self.request.model or header.model, placement)
        return opened, statefile.restore(path, opened.loaded)

    def open_reading(
        self,
        paths: Sequence[str],
        questions: Sequence[str] = (),
        *,
        label: str | None = None,
        evidence: bool = False,
    ) -> "tuple[Opened, Reading, AnswerOptions]":
        """Read documents or restore a state file, and return the options for asking as well.

        ``label`` is as for :func:`lmi_cli.cli.choices.prompts_of`, and ``evidence`` as in
        :class:`lmi_cli.tasks.plan.ReadingRequest`.

        Raises:
            PartialError: Under ``--strict``, part of the input could not be used.
        """
        # Errors in the options are reported before a model is loaded.
        if (path := state_file(paths)) is not None:
            sampling_of(self.request)
            opened, reading = self.open_state_file(path)
            prompts = prompts_of(self.request, opened.loaded.known, label)
        else:
            corpus = open_sources(paths, self.request)
            require_no_method(self.request)
            sampling_of(self.request)
            opened = self.load()
            prompts = prompts_of(self.request, opened.loaded.known, label)
            from lmi_cli.engine.drafts import require_possible
            from lmi_cli.tasks.reading import read
            from lmi_cli.text.stream import TokenStream

            require_possible(opened.loaded.lm, self.request.speculate)
            stream = TokenStream(corpus, opened.loaded.tokenizer)
            wanted = reading_request(self.request, prompts, self.chunk(opened))
            wanted = replace(wanted, evidence=evidence)
            reading = self.follow(read(opened.loaded, stream, wanted, questions), "reading")
        if opened.loaded.template is None:
            self.say("the model has no chat template, so the prompt is plain text")
        require_whole_input(reading.sources, reading.skipped, self.request)
        from lmi_cli.tasks.clustering import prepare_search

        options = answer_options(self.request, prompts)
        self.follow(prepare_search(opened.loaded, reading, options), "clustering")
        return opened, reading, options


def _decided(method: str) -> set[str]:
    """The options that were decided when a document was read by a method.

    What variables and configuration files say about them is for other documents.
    """
    its = METHODS[method].options if method in METHODS else ()
    still_open = {option.name for option in its if not option.fixed}
    of_methods = {option.name for each in METHODS.values() for option in each.options}
    reading = {"model", "revision", "dtype", "quantize", "method", "index"}
    return reading | of_methods - still_open


def piped_source() -> str:
    """Return ``-`` if text is piped in.

    Raises:
        UsageError: Standard input is a terminal or closed.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no source", hint="name a file or a folder, or pipe text in")
    return "-"


def open_sources(paths: Sequence[str], request: Request, *, follows: bool = False) -> "Corpus":
    """Open the text of files, folders and standard input.

    Raises:
        UsageError: A path does not exist, or ``-`` is used twice.
    """
    from lmi_cli.sources import open_corpus

    stdin = None if sys.stdin is None else sys.stdin.buffer
    return open_corpus(paths, read_options(request), stdin=stdin, follows=follows)


def state_file(paths: Sequence[str]) -> Path | None:
    """Return the state file among the arguments, if there is one.

    Raises:
        UsageError: There are other sources as well.
    """
    found = [path for path in paths if path != "-" and is_state_file(Path(path))]
    if found and len(paths) > 1:
        raise UsageError(
            f"{found[0]} is a state file and must be the only source",
            hint=f"lmi read --append {found[0]} adds sources to it",
        )
    return Path(found[0]) if found else None


def require_target(path: Path) -> None:
    """Refuse to write a state file over a file of another kind.

    Raises:
        UsageError: There is no such folder, or the file exists and is of another kind.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder")
    if path.exists() and state_file([str(path)]) is None:
        raise UsageError(f"{path} exists and is not a state file", hint="choose another name")


def require_whole_input(
    sources: "Sequence[Source]", skipped: "Sequence[Skipped]", request: Request
) -> None:
    """With ``--strict``, refuse a result that is based on only part of the input.

    Raises:
        PartialError: A source was skipped or read with issues.
    """
    from lmi_cli.sources import is_by_rule

    if not request.strict:
        return
    failed = [f"{item.origin} ({item.reason})" for item in skipped if not is_by_rule(item)]
    failed += [f"{source.origin} ({source.issues[0]})" for source in sources if source.issues]
    if failed:
        raise PartialError(f"{len(failed)} input(s) not used in full: {'; '.join(failed[:5])}")
