"""The report after the result: what was read, what the model could see, the time and the memory."""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmi_cli.cli.console import columns, mebibytes
from lmi_cli.cli.session import Opened
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.tasks.perplexity import PerplexityReport
    from lmi_cli.tasks.report import (
        Answer,
        Evidence,
        ReadingReport,
        SourceReport,
        Timing,
        Visible,
    )
    from lmi_cli.tasks.summary import SummaryReport
    from lmi_cli.text.provenance import Place

_INDENT = "    "
_GAP = " ... "
"""Between two sentences that are quoted."""
_SHOWN_CHARS = 600
"""Of a passage that is shown whole; segments are longer than passages."""
_ABOVE = " > "
"""Between the definitions that a line of code stands in."""
_ENDINGS = {
    "length": "reached the limit set by -n and is cut off",
    "loop": "began to repeat itself and was stopped",
}


def reading_lines(
    opened: Opened, report: "ReadingReport", timing: "Timing", answers: "Sequence[Answer]"
) -> list[str]:
    """The report on answers, with the line on what the model could not see."""
    worst = max((answer.visible for answer in answers), key=lambda visible: visible.unseen)
    lines = work_lines(opened, report, timing, sight_line(report, worst))
    for number, answer in enumerate(answers, 1):
        if ending := _ENDINGS.get(answer.finish_reason):
            lines.append(f"answer {number} {ending}" if len(answers) > 1 else f"answer {ending}")
    return lines


def work_lines(opened: Opened, report: "ReadingReport", timing: "Timing", *more: str) -> list[str]:
    """What was read, in what time and memory; then ``more``; then input not read in full."""
    speed = timing.prefill_tok_per_s or 0.0
    fresh, read = round(timing.prefill_s * speed), report.document_tokens - report.unread_tokens
    tokens = f"{read:,} of {report.document_tokens:,}" if report.unread_tokens else f"{read:,}"
    if report.form == "parts" and report.words:
        line = f"{tokens} tokens, searched by their words; the model reads only what they find"
    elif report.form == "parts":
        line = f"{tokens} tokens, read part by part with each question"
        line += f", in {timing.parts_s:.1f} s" if timing.parts_s else ""
    elif not timing.prefill_s:
        line = f"{tokens} tokens come from the state file"
    elif 0 < fresh < read:  # the rest comes from a state file
        line = f"read {fresh:,} more tokens, {tokens} in all, in {timing.prefill_s:.1f} s"
    else:
        line = f"read {tokens} tokens in {timing.prefill_s:.1f} s"
    line += f" ({speed:,.0f} tok/s)" if speed else ""
    if timing.parts_s and report.form != "parts":
        line += f", read again part by part in {timing.parts_s:.1f} s"
    line += f", loaded in {opened.load_s:.1f} s"
    if timing.decode_tok_per_s:
        line += f", decoded at {timing.decode_tok_per_s:.1f} tok/s"
        if timing.decode_tok_per_pass:
            line += f" ({timing.decode_tok_per_pass:.1f} tokens a pass)"
    return [f"{line}, peak memory {mebibytes(peak_rss_bytes())}", *more, *input_lines(report)]


def input_lines(report: "ReadingReport | SummaryReport | PerplexityReport") -> list[str]:
    """Input that was skipped, or read with losses."""
    lines = [f"skipped {item.origin}: {item.reason}" for item in report.skipped[:5]]
    if len(report.skipped) > 5:
        lines.append(f"skipped {len(report.skipped) - 5:,} more (see --json)")
    return lines + issue_lines(report.sources)


def issue_lines(sources: "Sequence[SourceReport]") -> list[str]:
    """The first issues and remarks of each source."""
    return [f"{s.origin}: {issue}" for s in sources for issue in (s.issues + s.remarks)[:3]]


def sight_line(report: "ReadingReport", visible: "Visible") -> str:
    """One sentence on what the model could see when it answered."""
    attended = f"each query head attended to at most {visible.attended:,} at a time"
    if visible.unseen == 0 and visible.partly:
        seen = (
            "some layers or heads of the model could see the whole text, the others its last "
            f"{visible.window - visible.partly:,} tokens"
        )
        return f"{seen}; of {visible.searched:,} more, {attended}" if visible.searched else seen
    if visible.unseen == 0 and visible.carried:
        return "the model read the whole text into its state of constant size"
    if visible.unseen == 0:
        return "the model could see the whole text"
    if visible.noted:
        return (
            f"the model answered from notes that it took on all {visible.noted:,} tokens, one part "
            "after the other; it did NOT see the text itself when it answered"
        )
    if visible.reread:
        return (
            f"the model answered from passages of {visible.reread:,} tokens in all, the best "
            f"matches in the {visible.searched:,} tokens searched; it did NOT see the rest of the "
            "text when it answered"
        )
    carried = ", which only its state of constant size has read" if visible.carried else ""
    if carried and not visible.window:
        return (
            f"the model knew the {visible.unseen:,} tokens of the text only by its state of "
            "constant size, which keeps no text word by word"
        )
    share = f"{100 * visible.unseen / report.document_tokens:.0f} %"
    if visible.unseen_from is not None and visible.unseen_to is not None:
        share += f": {_point(report, visible.unseen_from)} to {_point(report, visible.unseen_to)}"
    first = f"first {visible.sinks:,} and the " if visible.sinks else ""
    seen = f"the model could see the {first}last {visible.window:,} tokens"
    if visible.searched:
        return f"{seen}; of the {visible.searched:,} others ({share}), {attended}"
    place = "between them" if first else "before them"
    return f"{seen}, but NOT the {visible.unseen:,} tokens {place} ({share}){carried}"


def _point(report: "ReadingReport", place: "Place") -> str:
    if place.page is not None:
        point = f"page {place.page}"
    elif place.line is not None:
        point = f"line {place.line:,}"
    else:
        point = f"character {place.char or 0:,}"
    return f"{report.sources[place.source].origin} {point}" if len(report.sources) > 1 else point


def evidence_lines(answer: "Answer", report: "ReadingReport") -> list[str]:
    """The passages that the question is about, best first, with the sentences that matter most."""
    width, lines = columns(sys.stderr), list[str]()
    for item in answer.evidence:
        place, quote = place_of(item, report.sources), _shortened(quote_of(item))
        if width is None:
            lines.append(f"  {place}: {quote}")
        else:
            lines += textwrap.wrap(
                place, max(20, width - 1), initial_indent="  ", subsequent_indent=_INDENT
            )
            lines += textwrap.wrap(
                quote, max(20, width - 1), initial_indent=_INDENT, subsequent_indent=_INDENT
            )
    if answer.answered_from == "chain":
        told = "the notes come from these sentences, the best supported ones first:"
        return [told, *lines] if lines else ["no note was taken that the text supports"]
    told = "most relevant passages, best first"
    told += " (by shared words alone, as the model has no attention):" if report.words else ":"
    return [told, *lines] if lines else []


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS].rstrip() + " ..."


def prompt_lines(answer: "Answer") -> list[str]:
    """What the model was given, if that was asked for."""
    return [] if answer.prompt is None else ["prompt:", *answer.prompt.splitlines()]


def place_of(item: "Evidence", sources: "Sequence[SourceReport]") -> str:
    """The place of a passage, with its source if there are several, and what it stands under."""
    if item.page is not None:
        place = f"page {item.page}"
        place += f" ({item.label})" if item.label not in (None, str(item.page)) else ""
    elif item.line_start is not None:
        end = item.line_end or item.line_start
        place = f"line {item.line_start:,}"
        place = f"lines {item.line_start:,}-{end:,}" if end != item.line_start else place
    else:
        place = f"character {item.start:,}"
    place = f"{item.source} {place}" if len(sources) > 1 else place
    return ": ".join([place, _ABOVE.join(item.headings)]) if item.headings else place


def quote_of(item: "Evidence") -> str:
    """The sentences of a passage that are looked at most, in one line."""
    quotes = [" ".join(quote.text.split()) for quote in item.quotes]
    return _GAP.join(quotes) or " ".join(item.text.split())
