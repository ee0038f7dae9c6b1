"""``--dry-run`` and ``lmi inspect`` of documents: what would be read, in what memory and time."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_cli.cli import closing, envelope
from lmi_cli.cli.choices import (
    memory_choice,
    method_choice,
    prompts_of,
    reading_request,
    require_no_method,
)
from lmi_cli.cli.console import Output, mebibytes, one_line
from lmi_cli.cli.request import Request
from lmi_cli.cli.session import Session, open_sources, require_whole_input, state_file
from lmi_cli.cli.tree import tree_lines
from lmi_cli.engine import CHUNK
from lmi_cli.memory import peak_rss_bytes
from lmi_cli.methods.base import named_parameters

if TYPE_CHECKING:
    from lmi_cli.models.known import KnownModel
    from lmi_cli.tasks.inspect import InspectReport
    from lmi_cli.tasks.plan import Plan
    from lmi_cli.tasks.statefile import StateFileHeader
    from lmi_cli.tasks.summary import Length

_NAMED_SKIPS = 10


@dataclass(frozen=True, slots=True)
class Parts:
    """How a document is summarised: the strategy, and the usual size of a part in tokens."""

    strategy: str
    tokens: int


Planner = Callable[["KnownModel", int], "Plan | Parts"]
"""From a model and a number of tokens to a plan."""


def dry_run(
    command: str,
    request: Request,
    paths: Sequence[str],
    questions: Sequence[str] = (),
    *,
    label: str | None = None,
    keep: str | None = None,
) -> "InspectReport | None":
    """Report on ``paths`` as a command would read them, or on the contents of a state file.

    ``label`` is as for :func:`lmi_cli.cli.choices.prompts_of`, and ``keep`` as for
    :func:`lmi_cli.cli.choices.memory_choice`. Returns what was found, None of a state file.
    """
    if (path := state_file(paths)) is not None:
        _show_state_file(path, request)
        return None
    from lmi_cli.tasks.plan import plan_reading

    def planned(known: "KnownModel", tokens: int) -> "Plan":
        prompts = prompts_of(request, known, label)
        wanted = reading_request(request, prompts, request.chunk or CHUNK, keep)
        return plan_reading(known, wanted, tokens, questions)

    memory_choice(request, keep)  # checked before anything is read
    require_no_method(request)
    return _report(command, request, paths, planned)


def dry_run_of_scoring(
    requests: Sequence[Request],
    paths: Sequence[str],
    length: int | None,
    *,
    each: bool,
    strides: Sequence[int | None],
) -> None:
    """Report on ``paths`` as ``lmi perplexity`` would score their first ``length`` tokens.

    There is a request and a stride for each method; with ``each``, the plan is that of the longest
    source.
    """
    from lmi_cli.tasks.plan import plan_scoring

    def planner(request: Request, stride: int | None) -> Planner:
        choice = method_choice(request)

        def planned(known: "KnownModel", tokens: int) -> "Plan":
            scored = tokens if length is None else min(tokens, length)
            plan = plan_scoring(known, choice, scored, request.chunk or CHUNK)
            # The speed that is remembered is that of one text, in the usual windows.
            return replace(plan, prefill_s=None) if each or stride is not None else plan

        return planned

    first, *others = map(planner, requests, strides)
    _report("perplexity", requests[0], paths, first, others, longest=each)


def dry_run_of_parts(
    request: Request, paths: Sequence[str], strategy: str, length: "Length"
) -> None:
    """Report on ``paths`` as ``lmi summarize`` would divide them, or on a state file."""
    if (path := state_file(paths)) is not None:
        _show_state_file(path, request)
        return
    from lmi_cli.tasks.divided import part_size
    from lmi_cli.tasks.summary import strategy_of

    def planned(known: "KnownModel", tokens: int) -> "Parts":
        name = strategy_of(strategy, known.facts.weights)
        if name == "extract":
            return Parts(name, part_size(tokens, length.entries))
        from lmi_cli.tasks.writing import part_tokens

        return Parts(name, part_tokens(known, prompts_of(request, known, label=""), length))

    _report("summarize", request, paths, planned)


def _report(
    command: str,
    request: Request,
    paths: Sequence[str],
    planned: Planner,
    others: Sequence[Planner] = (),
    *,
    longest: bool = False,
) -> "InspectReport":
    """Report on ``paths``, as planned, and as ``others`` plan it beside.

    With ``longest``, plans are of the longest source.
    """
    corpus = open_sources(paths, request)
    sink = Output(request.output)
    with Session(request) as session:
        known = session.known_model()
        from lmi_cli.tasks.inspect import inspect
        from lmi_cli.text.stream import TokenStream

        report = session.follow(inspect(TokenStream(corpus, known.tokenizer)), "tokenising")
        tokens = report.tokens
        if longest:
            tokens = max(source.tokens for source in report.sources)
        plan, *more = (each(known, tokens) for each in (planned, *others))
        require_whole_input(corpus.sources, corpus.skipped, request)
        if request.json:
            sink.write(_as_json(command, known, plan, report, more))
        else:
            for line in (*_contents(report), *_forecast(known, plan, report)):
                sink.write(line + "\n")
            for each in more:
                for line in _forecast(known, each, report):
                    sink.write(line + "\n")
        sink.close()
        speed = report.tokens / report.seconds if report.seconds else 0.0
        session.say(
            f"tokenised in {report.seconds:.1f} s ({speed:,.0f} tok/s, {report.engine}), "
            f"peak memory {mebibytes(peak_rss_bytes())}"
        )
        for note in report.notes:
            session.say(note)
        for line in closing.issue_lines(report.sources):
            session.say(line)
    return report


def _show_state_file(path: Path, request: Request) -> None:
    from lmi_cli.tasks.statefile import changes, header_of

    header = header_of(path)
    size = path.stat().st_size
    sink = Output(request.output)
    if request.json:
        described = asdict(header) | {"path": str(path), "bytes": size}
        sink.write(envelope.dump("inspect", state_file=described))
    else:
        again = "; interrupted: run the same lmi read command again to continue"
        interrupted = "" if header.complete else again
        lines = {
            "state file": f"{one_line(str(path))}, {mebibytes(size)}",
            "read": f"{header.tokens:,} tokens{interrupted}",
            "model": f"{one_line(header.model)} ({header.dtype}), {header.identity[:12]}",
            "method": method_text(header.method),
            "kept": _kept_text(header),
        }
        for label, text in lines.items():
            sink.write(f"{label:<16}{text}\n")
        for source in header.sources:
            pages = f", {source['pages']:,} pages" if source["pages"] else ""
            origin = one_line(source["origin"])
            sink.write(f"{'source':<16}{origin} ({source['kind']}{pages})\n")
        for item in header.skipped:
            sink.write(f"{'skipped':<16}{one_line(item['origin'])}: {one_line(item['reason'])}\n")
    sink.close()
    with Session(request) as session:
        for change in changes(header):
            session.say(change)


def method_text(named: dict[str, Any]) -> str:
    """A method and its parameters as text, from a dictionary of both."""
    parameters = ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in named.items()
        if name != "name"
    )
    return f"{named['name']} ({parameters})" if parameters else str(named["name"])


def cache_text(plan: "Plan") -> str:
    """The size of the largest cache as text."""
    size = plan.cache_bytes
    return "growing with the text" if size is None else f"at most {mebibytes(size)}"


def planned_objects(known: "KnownModel", plan: "Plan") -> dict[str, Any]:
    """``model``, ``method`` and ``memory`` in the JSON object, for a model that is not loaded."""
    files, facts, dtype = known.files, known.facts, known.precision.dtype
    model = {
        "id": files.id,
        "kind": files.kind,
        "identity": files.identity,
        "family": facts.family,
        "trained_length": facts.trained_length,
        "length": None if facts.length is None else asdict(facts.length),
        "dtype": dtype,
        "quantize": known.precision.quantize,
        "device_map": None,
        "layers": len(facts.every_layer),
        "native_windows": list(facts.native_windows),
        "vocabulary": facts.vocabulary,
        "weights": facts.weights,
        "cache_bytes_per_token": len(facts.layers) * facts.layer_bytes_per_token(dtype),
        "recurrent_bytes": facts.recurrent_bytes,
    }
    method = named_parameters(plan.reported_method)
    method |= {"bound_tokens": plan.bound_tokens, "form": plan.form}
    sizes = plan.weights_bytes, plan.cache_bytes, plan.store_bytes
    return {"model": model, "method": method, "memory": envelope.memory_object(*sizes)}


def _as_json(
    command: str,
    known: "KnownModel",
    plan: "Plan | Parts",
    report: "InspectReport",
    more: "Sequence[Plan | Parts]" = (),
) -> str:
    inspected: dict[str, Any] = {
        "chars": report.chars,
        "tokenizer": report.engine,
        "notes": report.notes,
    }
    if isinstance(plan, Parts):
        model = envelope.known_model_object(known)
        method = envelope.parts_object(plan.strategy, plan.tokens)
        memory, prefill_s = envelope.memory_object(0, None), None
    else:
        objects = planned_objects(known, plan)
        model, method, memory = objects["model"], objects["method"], objects["memory"]
        inspected["fits"], prefill_s = plan.form == "fits", plan.prefill_s
    plans = [each for each in (plan, *more) if not isinstance(each, Parts)]
    compared = [
        {"method": planned_objects(known, each)["method"], "prefill_s": each.prefill_s}
        for each in plans
    ]
    return envelope.dump(
        command,
        dry_run=True,
        model=model,
        method=method,
        sources=[asdict(item) for item in report.sources],
        skipped=[asdict(item) for item in report.skipped],
        tokens=envelope.tokens_object(report.tokens, generated=0),
        sampling=None,
        timing={"tokenise_s": report.seconds, "prefill_s": prefill_s},
        memory=memory,
        inspect=inspected,
        **({"methods": compared} if more else {}),
    )


def _contents(report: "InspectReport") -> Iterator[str]:
    from lmi_cli.sources.reasons import SECRET

    yield from tree_lines(report.sources)
    inside, files = sum(item.tokens for item in report.sources), len(report.sources)
    headers = report.tokens - inside
    named = f" and {headers:,} of lines that name the files" if headers else ""
    yield (
        "\n"
        f"total    {files:,} {'file' if files == 1 else 'files'}, {report.tokens:,} tokens "
        f"({inside:,} of text{named}), {report.chars:,} characters"
    )
    if report.skipped:
        reasons = Counter(item.reason for item in report.skipped).most_common()
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        yield f"skipped  {one_line(listed)}"
        for item in report.skipped[:_NAMED_SKIPS]:
            yield one_line(f"         {item.origin}: {item.reason}")
        if len(report.skipped) > _NAMED_SKIPS:
            yield f"         {len(report.skipped) - _NAMED_SKIPS:,} more (see --json)"
        if any(reason.startswith(SECRET) for reason, _ in reasons):
            yield f"         --include-secrets also reads what {SECRET}"


def _forecast(known: "KnownModel", plan: "Plan | Parts", report: "InspectReport") -> Iterator[str]:
    if isinstance(plan, Parts):
        who = "no model reads them" if plan.strategy == "extract" else "the model reads each"
        yield f"parts    of about {plan.tokens:,} tokens ({plan.strategy}: {who})"
        return
    facts, dtype = known.facts, plan.precision.dtype
    length = f"the trained length of {facts.trained_length:,} tokens of {one_line(known.files.id)}"
    used = method_text(named_parameters(plan.reported_method))
    if plan.form == "fits":
        yield f"fits     yes, within {length}"
    elif plan.excerpt is None:
        how = "read in parts with each question" if plan.only_text else f"read with {used}"
        how = "searched by its words" if plan.only_text and plan.words else how
        yield f"fits     no, not within {length} (prompt included): {how}"
    else:
        first, last = plan.excerpt
        part = f"the first {first:,} and the last {last:,}" if first else f"the last {last:,}"
        yield f"fits     no: only {part} tokens are read ({used})"
    per_token = len(facts.layers) * facts.layer_bytes_per_token(dtype)
    bound = "growing" if plan.bound_tokens is None else f"{plan.bound_tokens:,} tokens per layer"
    kept = " and ".join(plan.kept)
    stored = f", {kept} {mebibytes(plan.store_bytes)}" if plan.store_bytes else ""
    yield (
        f"memory   weights {mebibytes(plan.weights_bytes)}, cache {cache_text(plan)} ({bound}, "
        f"{per_token:,} bytes per token in all layers, {dtype}){stored}, plus the program itself"
    )
    if plan.only_text and plan.words:
        yield "time     nothing is read but the passages that are found by words"
    elif plan.only_text:
        yield "time     nothing is read before a question; each takes the time of a reading or more"
    elif plan.prefill_s is None:
        yield "time     unknown: this model has not yet read with these settings on this machine"
    else:
        speed = report.tokens / plan.prefill_s if plan.prefill_s else 0.0
        yield f"time     about {_duration(plan.prefill_s)}, at {speed:,.0f} tok/s as last time"


def _kept_text(header: "StateFileHeader") -> str:
    """What a state file holds of the tokens that it was read from."""
    if not header.kept:
        return "no index, so no evidence and no passages"
    kept = ", ".join(header.kept)
    return kept if header.depth is None else f"{kept} of retrieval heads, and nothing else"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
