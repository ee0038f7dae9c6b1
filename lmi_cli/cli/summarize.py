"""``lmi summarize``: a summary and an outline of whole documents."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lmi_cli.cli import closing, envelope, outline
from lmi_cli.cli.answering import answer_and_print
from lmi_cli.cli.arguments import Panel, argument
from lmi_cli.cli.choices import memory_choice, prompts_of, sampling_of
from lmi_cli.cli.console import Output, is_special, mebibytes
from lmi_cli.cli.dry_run import dry_run, dry_run_of_parts
from lmi_cli.cli.request import READS, REREADING, Request
from lmi_cli.cli.session import (
    Opened,
    Session,
    open_sources,
    piped_source,
    require_whole_input,
    state_file,
)
from lmi_cli.engine import ANSWER_TOKENS
from lmi_cli.errors import UsageError
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.sources.blocks import Skipped, Source
    from lmi_cli.tasks.document import Document
    from lmi_cli.tasks.finder import Ranked
    from lmi_cli.tasks.reading import Reading
    from lmi_cli.tasks.summary import Entry, SummaryReport

    Found = tuple[Document, list[Source], list[Skipped]]

SUMMARY = Panel("Summary")

_FORMATS = ("text", "markdown", "json")


@dataclass(frozen=True, kw_only=True)
class SummarizeRequest(Request):
    """Options of ``lmi summarize``."""

    panels: ClassVar[tuple[str, ...]] = READS
    omitted: ClassVar[tuple[str, ...]] = ("no_stream", "answer_from", *REREADING)

    arguments: list[str] | None = argument(
        "SOURCE...", "Files, folders, a state file, or - for standard input."
    )
    strategy: str = SUMMARY(
        "--strategy NAME",
        "extract picks sentences of the text; tree and chain let the model write about each part; "
        "window lets it write about what it sees last; auto chooses by the size of the model.",
        "auto",
    )
    length: str = SUMMARY("--length NAME", "short, medium or long.", "medium")
    focus: str | None = SUMMARY(
        "--focus TEXT", "Summarise what the text says about this, found by the model."
    )
    outline_only: bool = SUMMARY("--outline-only", "Print only the outline.", False)
    format: str = SUMMARY("--format NAME", "text, markdown or json.", "text")
    stream: bool = SUMMARY("--stream", "Print each part of the outline when it is done.", False)


def command(request: SummarizeRequest) -> None:
    """Summarise whole documents: a few sentences on all of them, then an outline part by part.

    Every sentence is shown with its place.
    """
    from lmi_cli.tasks.summary import length_of, strategy_of

    if request.format not in _FORMATS:
        raise UsageError(
            f"unknown value {request.format!r} for --format", hint="one of " + ", ".join(_FORMATS)
        )
    if request.json and request.format == "markdown":
        raise UsageError("--json cannot be combined with --format markdown")
    request = replace(request, json=request.json or request.format == "json")
    length_of(request.length)
    strategy_of(request.strategy, 0)
    if request.focus is not None:
        if not request.focus.strip():
            raise UsageError("--focus is empty")
        if request.strategy not in ("auto", "extract"):
            raise UsageError(f"--focus cannot be combined with --strategy {request.strategy}")
        if request.no_memory:
            raise UsageError("--focus needs the index, which --no-memory leaves out")
        request = replace(request, strategy="extract")
    if request.stream and (request.json or request.output or request.format == "markdown"):
        raise UsageError("--stream prints text on standard output, and nothing else")
    paths = request.arguments or [piped_source()]
    if request.strategy == "window":
        _window(request, paths)
    elif request.dry_run:
        if request.focus is None:
            dry_run_of_parts(request, paths, request.strategy, length_of(request.length))
        else:
            dry_run("summarize", request, paths, [request.focus], label="")
    else:
        _Summarizing(request, paths).run()


def _window(request: SummarizeRequest, paths: Sequence[str]) -> None:
    """Let the model write about what it sees at the end of a reading."""
    from lmi_cli.text.prompts import SUMMARY_INSTRUCTION

    if request.outline_only or request.format == "markdown":
        raise UsageError("--strategy window writes plain text and makes no outline")
    # Such a summary is about the whole text, so no passages are looked up.
    asked = replace(request, no_memory=True, no_stream=not request.stream)
    answer_and_print("summarize", asked, paths, [SUMMARY_INSTRUCTION], label="")


class _Summarizing:
    """One run of the command."""

    def __init__(self, request: SummarizeRequest, paths: Sequence[str]) -> None:
        self._request, self._paths = request, paths
        self._sink = Output(request.output)
        self._opened: Opened | None = None
        self._model: dict[str, Any] = {}
        self._streamed = 0
        self._several = False

    def run(self) -> None:
        """Summarise and print."""
        request = self._request
        sampling_of(request)
        with Session(request) as session:
            typed = request.without_standing(*request.standing)
            unused = (typed.method, typed.given, typed.no_memory, typed.index)
            if request.focus is None and any(unused):
                session.say("the options of the method and the memory do not apply here")
            if typed.max_new_tokens != ANSWER_TOKENS:
                session.say("--max-new-tokens applies to --strategy window; see --length")
            if typed.show_prompt:
                session.say("--show-prompt applies to --strategy window")
            with self._task(session) as task:
                report = session.follow(
                    task, "summarising", lambda entry: self._show(session, entry)
                )
                self._print(report)
            for line in self._closing_lines(report):
                session.say(line)

    @contextmanager
    def _task(self, session: Session) -> Iterator["Generator[Any, None, SummaryReport]"]:
        request, path = self._request, state_file(self._paths)
        if request.focus is not None:
            yield self._focused(session, request.focus)
            return
        strategy, found = self._stored(session, path) if path else self._read(session)
        require_whole_input(found[1], found[2], request)
        self._several = len(found[1]) > 1
        if strategy == "extract":
            yield self._extract(*found)
        else:
            with self._written(session, strategy, *found) as task:
                yield task

    def _read(self, session: Session) -> tuple[str, "Found"]:
        """The strategy, and the documents, which no model reads for that."""
        corpus = open_sources(self._paths, self._request)
        known = session.known_model()
        from lmi_cli.tasks.divided import read_document
        from lmi_cli.tasks.summary import strategy_of
        from lmi_cli.text.stream import TokenStream

        self._model = envelope.known_model_object(known)
        strategy = strategy_of(self._request.strategy, known.facts.weights)
        stream = TokenStream(corpus, known.tokenizer)
        document = session.follow(read_document(stream), "tokenising")
        return strategy, (document, corpus.sources, corpus.skipped)

    def _stored(self, session: Session, path: Path) -> tuple[str, "Found"]:
        """The strategy, and the documents in a state file; sentences are picked without a model."""
        from lmi_cli.tasks import statefile
        from lmi_cli.tasks.summary import strategy_of

        header = statefile.header_of(path)
        strategy = strategy_of(self._request.strategy, header.weights)
        self._model = envelope.stored_model_object(header)
        if strategy != "extract":
            self._opened, reading = session.open_state_file(path)
            return strategy, (reading.document, reading.sources, reading.skipped)
        for change in statefile.changes(header):
            session.say(change)
        return strategy, statefile.document_of(path)

    def _focused(self, session: Session, focus: str) -> "Generator[Any, None, SummaryReport]":
        memory_choice(self._request)
        opened, reading, options = session.open_reading(
            self._paths, [focus], label="", evidence=True
        )
        self._opened, self._model = opened, envelope.model_object(opened)
        from lmi_cli.tasks.asking import Asker

        self._several = len(reading.sources) > 1
        ranked = Asker(opened.loaded, reading, options).ranked(focus)
        if not ranked:
            raise UsageError(
                "--focus needs an index of the keys of retrieval heads",
                hint="the state file was written without one, or there are too few tokens",
            )
        return self._extract(reading.document, reading.sources, reading.skipped, reading, ranked)

    def _extract(
        self,
        document: "Document",
        sources: "Sequence[Source]",
        skipped: "Sequence[Skipped]",
        reading: "Reading | None" = None,
        ranked: "Sequence[Ranked] | None" = None,
    ) -> "Generator[Any, None, SummaryReport]":
        from lmi_cli.tasks.summarize import summarize
        from lmi_cli.tasks.summary import length_of

        length = length_of(self._request.length)
        return summarize(document, sources, skipped, length, reading=reading, ranked=ranked)

    @contextmanager
    def _written(
        self,
        session: Session,
        strategy: str,
        document: "Document",
        sources: "Sequence[Source]",
        skipped: "Sequence[Skipped]",
    ) -> Iterator["Generator[Any, None, SummaryReport]"]:
        request = self._request
        self._opened = self._opened or session.load()
        model = self._opened.loaded
        self._model = envelope.model_object(self._opened)
        from lmi_cli.tasks import writing
        from lmi_cli.tasks.divided import DividedDocument
        from lmi_cli.tasks.finished import FinishedParts
        from lmi_cli.tasks.summary import length_of

        options = writing.WritingOptions(
            prompts_of(request, model.known, label=""),
            length_of(request.length),
            sampling_of(request),
            session.chunk(self._opened),
            request.speculate,
        )
        size = writing.part_tokens(model.known, options.prompts, options.length)
        divided = DividedDocument(document, sources, size)
        kept = None
        if request.output is not None and not is_special(request.output):
            kept = request.output.with_name(request.output.name + ".parts")
        identity = writing.identity_of(model, divided, strategy, options)
        finished = FinishedParts(kept, identity)
        yield writing.write_summary(model, divided, skipped, strategy, options, finished)
        finished.remove()

    def _show(self, session: Session, entry: "Entry") -> None:
        """An entry that is done: on stdout if streamed, else on stderr where progress is shown."""
        lines = list(outline.entry_lines(entry, several=self._several))
        if self._request.stream:
            self._sink.write("\n".join(lines) + "\n")
            self._streamed += 1
        elif self._opened is not None and session.progress.shows:
            for line in lines:
                session.say(line)

    def _print(self, report: "SummaryReport") -> None:
        request, sink = self._request, self._sink
        if request.json:
            objects = outline.as_objects(report, outline_only=request.outline_only)
            sink.write(envelope.dump_summary(self._model, self._opened, report, request, objects))
        elif request.stream:
            report = replace(report, outline=())
            if not request.outline_only:
                sink.write("\n" if self._streamed else "")
                sink.write("".join(f"{line}\n" for line in outline.as_text(report)))
        else:
            lines = outline.as_markdown if request.format == "markdown" else outline.as_text
            shown = lines(report, outline_only=request.outline_only)
            sink.write("".join(f"{line}\n" for line in shown))
        sink.close()

    def _closing_lines(self, report: "SummaryReport") -> list[str]:
        parts = f"{report.parts:,} {'part' if report.parts == 1 else 'parts'}"
        if report.strategy != "extract":
            line = (
                f"the model wrote about all {report.tokens:,} tokens in {parts}; "
                f"{report.dropped:,} of its sentences were left out, since they repeat themselves "
                "or the text does not support them"
            )
        elif self._request.focus is not None:
            line = f"sentences picked from all {report.tokens:,} tokens by the model's attention"
        else:
            line = f"sentences picked from all {report.tokens:,} tokens in {parts}, without a model"
        return [line, self._work_line(report), *closing.input_lines(report)]

    def _work_line(self, report: "SummaryReport") -> str:
        peak, opened = f"peak memory {mebibytes(peak_rss_bytes())}", self._opened
        if opened is None:
            return peak
        timing, work = report.timing, [f"loaded in {opened.load_s:.1f} s", peak]
        if timing.decode_tok_per_s:
            speed = f"{timing.decode_tok_per_s:.1f} tok/s"
            if timing.decode_tok_per_pass:
                speed += f" ({timing.decode_tok_per_pass:.1f} tokens a pass)"
            work.insert(1, f"wrote {report.generated:,} at {speed}")
        if timing.prefill_tok_per_s:
            speed = f"{timing.prefill_tok_per_s:,.0f} tok/s"
            work.insert(0, f"read {report.read:,} tokens in {timing.prefill_s:.1f} s ({speed})")
        return ", ".join(work)
