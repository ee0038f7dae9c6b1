"""The two forms of prompt: one sequence in the model's own template, and a stream with its tail.

The form decides more than anything else how well a small model answers, so the wordings below were
chosen by measurement; ``docs/prompts.md`` has the figures. Text of the template and text from
outside are never encoded in one call.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lmi_cli.errors import ModelError
from lmi_cli.text.tokenizer import Tokenizer

QUESTION_LABEL = "Question: "

_DOCUMENT = "\ue000document\ue000"
_QUESTION = "\ue000question\ue000"
_SYSTEM = "\ue000system\ue000"
_BROKEN_TEMPLATE = "the model's chat template does not keep the user's turn as it is"
_MARKS = re.compile(f"({_DOCUMENT}|{_QUESTION})")


Turn = tuple[str, str]
"""A question and its answer."""


class Template(Protocol):
    """A chat template; see :class:`lmi_cli.models.chat.ChatTemplate`."""

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Text of a conversation, up to the start of the next answer."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands before a document, and what stands between it and the answer.

    Attributes:
        head: Ids before the document.
        opening: Ids right after the document.
        closing: Ids between the question and the answer.
        tokenizer: Encodes the question.
        lead: Text that belongs to the question's first word.
    """

    head: tuple[int, ...]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    tokenizer: Tokenizer
    lead: str = ""

    def tail(self, question: str) -> list[int]:
        """Ids from the end of the document to the start of the answer."""
        asked = self.tokenizer.encode(self.lead + question).ids.tolist()
        return [*self.opening, *asked, *self.closing]


def in_turn(
    tokenizer: Tokenizer,
    template: Template | None,
    system: str | None = None,
    *,
    label: str = QUESTION_LABEL,
    earlier: Sequence[Turn] = (),
) -> Prompt:
    """One sequence in the model's template: the text inside the user turn, the question last.

    Args:
        tokenizer: Encodes the parts.
        template: None for a model without one; the prompt is then plain text.
        system: Text of the system turn, where the user gave one.
        label: Stands in front of the question; an instruction needs none.
        earlier: Turns of the conversation so far; they stand in front, without their text.

    Raises:
        ModelError: The template fails, or drops or doubles the user's turn.
    """
    if template is None:
        return _plain(tokenizer, system, earlier)
    messages = [] if system is None else [{"role": "system", "content": _SYSTEM}]
    outside = [text for turn in earlier for text in turn]
    for number in range(0, len(outside), 2):
        messages.append({"role": "user", "content": _outside(number)})
        messages.append({"role": "assistant", "content": _outside(number + 1)})
    messages.append({"role": "user", "content": f"{_DOCUMENT}\n\n{label}{_QUESTION}"})
    parts = _MARKS.split(template.render(messages))
    if parts[1::2] != [_DOCUMENT, _QUESTION]:
        raise ModelError(_BROKEN_TEMPLATE)
    head, opening, closing = (_encode(tokenizer, part, system, outside) for part in parts[::2])
    return Prompt(head, opening, closing, tokenizer)


def after_stream(
    tokenizer: Tokenizer, template: Template | None, system: str | None = None
) -> Prompt:
    """A stream that any question can follow: nothing but BOS before it, all instruction after it.

    The question stands in a user turn of its own, opened after the text as the template opens a
    later turn: without the system turn that many templates put in front of the first.

    Args:
        tokenizer: Encodes the parts.
        template: None for a model without one; the prompt is then plain text.
        system: Text that goes in front of the question, where the user gave one.

    Raises:
        ModelError: The template fails, or drops or doubles the user's turn.
    """
    if template is None:
        return _plain(tokenizer, system)
    asked = _QUESTION if system is None else f"{_SYSTEM}\n\n{_QUESTION}"
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _DOCUMENT}]
    ended = template.render(talk, answer=False).rpartition(_DOCUMENT)[2]
    rendered = template.render([*talk, {"role": "user", "content": asked}])
    turn = rendered.rpartition(_DOCUMENT)[2].removeprefix(ended)
    parts = _MARKS.split(turn)
    if parts[1::2] != [_QUESTION]:
        raise ModelError(_BROKEN_TEMPLATE)
    opening, closing = (_encode(tokenizer, part, system) for part in parts[::2])
    gap = tokenizer.encode("\n\n").ids.tolist()
    return Prompt(tuple(tokenizer.prefix), (*gap, *opening), closing, tokenizer)


def later_turn(tokenizer: Tokenizer, template: Template | None) -> Prompt:
    """What stands between an answer and the next one in a conversation; it has no head.

    Raises:
        ModelError: The template fails, or drops or doubles the user's turn.
    """
    if template is None:
        plain = _plain(tokenizer, None)
        return Prompt((), plain.opening, plain.closing, tokenizer, plain.lead)
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _DOCUMENT}]
    rendered = template.render([*talk, {"role": "user", "content": _QUESTION}])
    parts = _MARKS.split(rendered.rpartition(_DOCUMENT)[2])
    if parts[1::2] != [_QUESTION]:
        raise ModelError(_BROKEN_TEMPLATE)
    opening, closing = (_encode(tokenizer, part, None) for part in parts[::2])
    return Prompt((), opening, closing, tokenizer)


def _plain(tokenizer: Tokenizer, system: str | None, earlier: Sequence[Turn] = ()) -> Prompt:
    opening = "\n\n" if system is None else f"\n\n{system}\n\n"
    said = "".join(f"Question: {asked}\nAnswer: {given}\n\n" for asked, given in earlier)
    return Prompt(
        (*tokenizer.prefix, *tokenizer.encode(said).ids.tolist()),
        tuple(tokenizer.encode(f"{opening}Question:").ids.tolist()),
        tuple(tokenizer.encode("\nAnswer:").ids.tolist()),
        tokenizer,
        lead=" ",
    )


def _outside(number: int) -> str:
    """Stands in the template for text number ``number`` of the conversation so far."""
    return f"\ue000outside{number}\ue000"


def _encode(
    tokenizer: Tokenizer, part: str, system: str | None, outside: Sequence[str] = ()
) -> tuple[int, ...]:
    """Ids of a part of the template; texts from outside that belong in it stay plain text."""
    texts = {_SYSTEM: system or ""} | {_outside(n): text for n, text in enumerate(outside)}
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(texts)})", part):
        if piece in texts:
            ids += tokenizer.encode(texts[piece]).ids.tolist()
        else:
            ids += tokenizer.encode_template(piece)
    return tuple(ids)
