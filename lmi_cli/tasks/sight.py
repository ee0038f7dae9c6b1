"""What the model can see of a document when it begins to answer, and what it cannot."""

from collections.abc import Sequence

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.engine.engine import Ids
from lmi_cli.methods import Method
from lmi_cli.methods.base import merged, visible_in_any
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.reading import Reading
from lmi_cli.tasks.report import Visible
from lmi_cli.text.tokenizer import Tokenizer


def hidden_spans(reading: Reading, layers: Sequence[LayerSpec], tail: int) -> list[tuple[int, int]]:
    """Ranges of document tokens that the first token of an answer does not attend to.

    There are none where a model without attention layers reads a document that fits, as it was
    trained to.

    Args:
        reading: The reading.
        layers: All attention layers of the model.
        tail: Number of tokens between the document and the answer.
    """
    if not layers and reading.plan.fits:
        return []
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


def searched_tokens(
    reading: Reading, searching: Method | None, layers: Sequence[LayerSpec], tail: int
) -> tuple[int, int]:
    """How many tokens of the store the first token of an answer searches, and for how many.

    Args:
        reading: The reading.
        searching: The method that searches its store.
        layers: All layers of the model.
        tail: Number of tokens between the document and the answer.
    """
    store = reading.stores.get("store")
    if searching is None or store is None:
        return 0, 0
    segments = (segment for layer in layers for segment in searching.segments(layer))
    searches = [(segment.nearest, segment.topk) for segment in segments if segment.topk is not None]
    if not searches:
        return 0, 0
    last = reading.state.tokens + tail - 1 - min(nearest for nearest, _ in searches)
    searched = max(0, min(last - store.first + 1, store.tokens))
    return searched, min(searched, max(topk for _, topk in searches))


def chosen_tokens(reading: Reading, hidden: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """From how many tokens the method itself chooses some, and how many of them a head sees."""
    unseen = sum(stop - start for start, stop in hidden)
    attended = min(unseen, reading.plan.method.attended_beyond)
    return (unseen, attended) if attended else (0, 0)


def _with_unread(reading: Reading, hidden: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of the tokens that were read as ranges of the document, and what was not read."""
    if reading.plan.excerpt is None:
        return list(hidden)
    first, unread = reading.plan.excerpt[0], reading.unread

    def place(token: int) -> int:
        return token if token < first else token + unread

    spans = [(place(start), place(stop - 1) + 1) for start, stop in hidden]
    return merged([*spans, (first, first + unread)])


def visible_of(
    reading: Reading,
    layers: Sequence[LayerSpec],
    source: str,
    hidden: Sequence[tuple[int, int]],
    tail: int,
    reread: Sequence[Passage] | None,
    searched: tuple[int, int],
    indexed: int,
) -> Visible:
    """The document tokens that the first token of an answer sees.

    Args:
        reading: The reading.
        layers: All layers of the model.
        source: What the answer is based on, as in ``Answer.answered_from``.
        hidden: See :func:`hidden_spans`.
        tail: Number of tokens between the document and the answer.
        reread: Passages that are read again; None for none.
        searched: See :func:`searched_tokens`.
        indexed: Tokens among which the passages were found.
    """
    document = reading.document
    if source == "chain":
        return visible_notes(document)
    if reread is not None:
        return visible_passages(document, reread, document.tokens if source == "xl3m" else indexed)
    found = searched if source == "memory" else chosen_tokens(reading, hidden)
    return visible_beside(reading, layers, hidden, tail, *found)


def visible_beside(
    reading: Reading,
    layers: Sequence[LayerSpec],
    hidden: Sequence[tuple[int, int]],
    tail: int,
    searched: int = 0,
    attended: int = 0,
) -> Visible:
    """What is visible of a document apart from some ranges of tokens.

    ``layers`` and ``tail`` are as for :func:`hidden_spans`, the last two as
    :func:`searched_tokens` returns them.
    """
    document, near = reading.document, reading.plan.method.local_window
    first, stop = (hidden[0][0], hidden[-1][1]) if hidden else (0, 0)
    unseen, window = sum(end - begin for begin, end in hidden), document.tokens - stop
    visible = Visible(document.tokens - unseen - window, window, unseen)
    if hidden:
        visible.unseen_from, visible.unseen_to = document.place(first), document.place(stop - 1)
    method = reading.plan.method
    if near is not None and method.mixed and any(map(method.may_search, layers)):
        visible.partly = max(0, window - max(0, near - tail))
    visible.searched, visible.attended = searched, attended
    if reading.state.recurrent:
        visible.carried = unseen - reading.unread if layers else document.tokens
    return visible


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
    attended: int = 0,
) -> str:
    """The text that stands before the model when it begins to answer, template tokens included.

    Args:
        tokenizer: The model's.
        reading: What comes before ``ids``; None if they are all.
        hidden: Ranges of document tokens that are not visible; their number stands in their place.
        ids: What is read before the answer is generated.
        attended: How many of the hidden tokens a query head may attend to at a time.
    """
    unseen = (
        f", of which a query head sees {attended:,}" if attended else " that the model does not see"
    )
    text: list[str] = []
    if reading is not None:
        document, edge = reading.document, 0
        text.append(tokenizer.decode(reading.plan.prefix, template=True))
        for first, stop in [*hidden, (document.tokens, document.tokens)]:
            text.append(tokenizer.decode(document.ids[edge:first].tolist()))
            if stop > first:
                text.append(f"\n[{stop - first:,} tokens{unseen}]\n")
            edge = stop
    return "".join([*text, tokenizer.decode(ids.tolist(), template=True)])
