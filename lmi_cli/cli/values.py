"""What the values of options mean to the command line: lists in one text, and what goes with what.

It is apart from the options themselves, since they are parsed by what needs it. Imports nothing.
"""

REREADING_BASES = {
    "passages": ("auto", "passages", "xl3m"),
    "passage_order": ("auto", "passages"),
    "segment_score": ("xl3m",),
}
"""Options about what is read again, each with the values of ``--answer-from`` that it goes with."""


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
