"""What the model can see of a document when it begins to answer, and what it cannot."""

from collections.abc import Sequence

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.engine.engine import Ids
from lmi_cli.methods.base import merged, visible_in_any
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Visible
from lmi_cli.text.tokenizer import Tokenizer


def hidden_spans(reading: Reading, layers: Sequence[LayerSpec], tail: int) -> list[tuple[int, int]]:
    """Ranges of document tokens that the first token of an answer does not attend to.

    Args:
        reading: The reading.
        layers: All layers of the model.
        tail: Number of tokens between the document and the answer.
    """
    prefix, tokens = len(reading.plan.prefix), reading.document.tokens - reading.unread
    position = prefix + tokens + tail - 1
    hidden, edge = [], 0
    for start, stop in visible_in_any(reading.plan.method, layers, position):
        start, stop = min(tokens, max(0, start - prefix)), min(tokens, stop - prefix)
        if edge < start:
            hidden.append((edge, start))
        edge = max(edge, stop)
    if edge < tokens:
        hidden.append((edge, tokens))
    return _with_unread(reading, hidden)


def _with_unread(reading: Reading, hidden: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of the tokens that were read as ranges of the document, and what was not read."""
    if reading.plan.excerpt is None:
        return list(hidden)
    first, unread = reading.plan.excerpt[0], reading.unread

    def place(token: int) -> int:
        return token if token < first else token + unread

    spans = [(place(start), place(stop - 1) + 1) for start, stop in hidden]
    return merged([*spans, (first, first + unread)])


def visible_beside(document: Document, hidden: Sequence[tuple[int, int]]) -> Visible:
    """What is visible of a document apart from some ranges of tokens."""
    if not hidden:
        return Visible(0, document.tokens, 0)
    first, stop = hidden[0][0], hidden[-1][1]
    unseen, window = sum(end - begin for begin, end in hidden), document.tokens - stop
    places = document.place(first), document.place(stop - 1)
    return Visible(document.tokens - unseen - window, window, unseen, *places)


def visible_passages(document: Document, reread: Sequence[Passage], searched: int) -> Visible:
    """What is visible of a document of which only some passages are read again."""
    again = sum(map(len, reread))
    return Visible(0, 0, document.tokens - again, searched=searched, reread=again)


def visible_notes(document: Document) -> Visible:
    """What is visible of a document of which only notes are read."""
    return Visible(0, 0, document.tokens, noted=document.tokens)


def prompt_text(
    tokenizer: Tokenizer,
    reading: Reading | None,
    hidden: Sequence[tuple[int, int]],
    ids: Ids,
    *,
    searched: bool = False,
) -> str:
    """The text that stands before the model when it begins to answer, template tokens included.

    Args:
        tokenizer: The model's.
        reading: What comes before ``ids``; None if they are all.
        hidden: Ranges of document tokens that are not visible; their number stands in their place.
        ids: What is read before the answer is generated.
        searched: Whether the hidden tokens are searched.
    """
    unseen = "are searched" if searched else "the model does not see"
    text: list[str] = []
    if reading is not None:
        document, edge = reading.document, 0
        text.append(tokenizer.decode(reading.plan.prefix, template=True))
        for first, stop in [*hidden, (document.tokens, document.tokens)]:
            text.append(tokenizer.decode(document.ids[edge:first].tolist()))
            if stop > first:
                text.append(f"\n[{stop - first:,} tokens that {unseen}]\n")
            edge = stop
    return "".join([*text, tokenizer.decode(ids.tolist(), template=True)])
