"""The report at the end: what was read, what the model could see, what that took."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmi_cli.cli.session import Opened
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.tasks.report import Answer, ReadingReport, Timing, Visible
    from lmi_cli.text.provenance import Place


_ENDINGS = {
    "length": "reached the limit of -n tokens and is cut off",
    "loop": "began to repeat itself and was stopped",
}


def reading_lines(
    opened: Opened, report: "ReadingReport", timing: "Timing", answers: "Sequence[Answer]"
) -> list[str]:
    """The report on answers, with the line on what the model could not see."""
    least = max((answer.visible for answer in answers), key=lambda visible: visible.unseen)
    lines = [
        *work_lines(opened, report, timing)[:1],
        sight_line(report, least),
        *input_lines(report),
    ]
    for number, answer in enumerate(answers, 1):
        if ending := _ENDINGS.get(answer.finish_reason):
            lines.append(f"answer {number} {ending}" if len(answers) > 1 else f"answer {ending}")
    return lines


def work_lines(opened: Opened, report: "ReadingReport", timing: "Timing") -> list[str]:
    """What was read, how fast and in how much memory; then the input that was not used in full."""
    fresh = round(timing.prefill_s * (timing.prefill_tok_per_s or 0.0))
    read = f"read {report.document_tokens:,} tokens in {timing.prefill_s:.1f} s"
    if 0 < fresh < report.document_tokens:  # the rest comes from a state file
        read = (
            f"read {fresh:,} more tokens, {report.document_tokens:,} in all, "
            f"in {timing.prefill_s:.1f} s"
        )
    if not timing.prefill_s:
        read = f"{report.document_tokens:,} tokens come from the state file"
    return [
        read
        + (f" ({timing.prefill_tok_per_s:,.0f} tok/s)" if timing.prefill_tok_per_s else "")
        + f", loaded in {opened.load_s:.1f} s"
        + (f", decoded {timing.decode_tok_per_s:.1f} tok/s" if timing.decode_tok_per_s else "")
        + f", peak memory {peak_rss_bytes() / 2**20:,.0f} MiB",
        *input_lines(report),
    ]


def input_lines(report: "ReadingReport") -> list[str]:
    """Input that was skipped, or read with losses."""
    lines = [f"skipped {item.origin}: {item.reason}" for item in report.skipped[:5]]
    if len(report.skipped) > 5:
        lines.append(f"skipped {len(report.skipped) - 5:,} more (see --json)")
    for source in report.sources:
        lines += [f"{source.origin}: {issue}" for issue in (source.issues + source.remarks)[:3]]
    return lines


def sight_line(report: "ReadingReport", visible: "Visible") -> str:
    """One sentence on what the model could see when it answered."""
    if visible.unseen == 0:
        return "the model could see all of it"
    if visible.reread:
        return (
            f"the model answered from passages of {visible.reread:,} tokens, the best of all "
            f"{visible.searched:,} that were searched; it did NOT see the rest when it answered"
        )
    share = 100 * visible.unseen / report.document_tokens
    place = ""
    if visible.unseen_from is not None and visible.unseen_to is not None:
        place = f": {_span(report, visible.unseen_from, visible.unseen_to)}"
    first = f"first {visible.sinks:,} and the " if visible.sinks else ""
    if visible.searched:
        return (
            f"the model could see the {first}last {visible.window:,} tokens; each query head "
            f"attended to {visible.attended:,} at a time of the {visible.searched:,} others "
            f"({share:.0f} %{place})"
        )
    return (
        f"the model could see the {first}last {visible.window:,} tokens, and NOT the "
        f"{visible.unseen:,} {'between' if first else 'before'} ({share:.0f} %{place})"
    )


def _span(report: "ReadingReport", first: "Place", last: "Place") -> str:
    several = len(report.sources) > 1
    return f"{_point(report, first, several)} to {_point(report, last, several)}"


def _point(report: "ReadingReport", place: "Place", several: bool) -> str:
    if place.page is not None:
        point = f"page {place.page}"
    elif place.line is not None:
        point = f"line {place.line:,}"
    else:
        point = f"character {place.char or 0:,}"
    return f"{report.sources[place.source].origin} {point}" if several else point


_QUOTED_CHARS = 90


def evidence_lines(answer: "Answer", report: "ReadingReport") -> list[str]:
    """The passages that the question is about, one to a line, best first."""
    several = len(report.sources) > 1
    lines = []
    for item in answer.evidence:
        if item.page is not None:
            place = f"page {item.page}"
            place += f" ({item.label})" if item.label not in (None, str(item.page)) else ""
        elif item.line_start is not None:
            end = item.line_end or item.line_start
            place = f"line {item.line_start:,}"
            place = f"lines {item.line_start:,}-{end:,}" if end != item.line_start else place
        else:
            place = f"character {item.start:,}"
        place = f"{item.source} {place}" if several else place
        text = " ".join(item.text.split())
        cut = f"{text[: _QUOTED_CHARS - 3]}..." if len(text) > _QUOTED_CHARS else text
        lines.append(f"  {place}: {cut}")
    return ["most relevant passages, best first:", *lines] if lines else []
