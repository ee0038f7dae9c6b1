"""``lmi summarize``: summaries of documents."""

from dataclasses import dataclass, replace
from typing import ClassVar

from lmi_cli.cli.answering import answer_and_print
from lmi_cli.cli.arguments import argument
from lmi_cli.cli.request import MEMORY, READS, Request
from lmi_cli.cli.session import piped_source


@dataclass(frozen=True, kw_only=True)
class SummarizeRequest(Request):
    """Options of ``lmi summarize``."""

    panels: ClassVar[tuple[str, ...]] = tuple(panel for panel in READS if panel != MEMORY)

    arguments: list[str] | None = argument(
        "SOURCE...", "Files, folders, a state file, or - for standard input."
    )


def command(request: SummarizeRequest) -> None:
    """Summarise documents, which are read once."""
    from lmi_cli.text.prompts import SUMMARY_INSTRUCTION

    # A summary is about the whole text, so no passages are looked up.
    request = replace(request, no_memory=True)
    paths = request.arguments or [piped_source()]
    answer_and_print("summarize", request, paths, [SUMMARY_INSTRUCTION], label="")
