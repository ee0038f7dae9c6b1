"""The two forms of prompt: one sequence in the model's own template, and a stream with its tail.

The form decides more than anything else how well a small model answers, so the wordings below were
chosen by measurement; ``docs/prompts.md`` has the figures. Text of the template and text from
outside are never encoded in the same call.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lmi_cli.errors import ModelError
from lmi_cli.text.tokenizer import Tokenizer

QUESTION_LABEL = "Question: "
"""Precedes a question that shares a turn with the text it is about."""

SUMMARY_INSTRUCTION = "Summarize the text above in three sentences."
"""The wording that measured best; see ``docs/prompts.md``."""

LIKELIHOOD_PROMPT = (
    "Passage: ",
    ", write a question based on this passage, Question:",
)
"""Before and after a passage, in front of a question whose likelihood is wanted."""

_DOCUMENT = "\ue000document\ue000"
_QUESTION = "\ue000question\ue000"
_SYSTEM = "\ue000system\ue000"
_MARKS = re.compile(f"({_DOCUMENT}|{_QUESTION})")
_TALK = (
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": _DOCUMENT},
)


Turn = tuple[str, str]
"""A question and its answer."""


class Template(Protocol):
    """A chat template; see :class:`lmi_cli.models.chat.ChatTemplate`."""

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Text of a conversation, up to the start of the next answer."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens before a document, and those between it and the answer.

    Attributes:
        prefix: Ids before the document.
        opening: Ids right after the document.
        closing: Ids between the question and the answer.
        tokenizer: Encodes the question.
        lead: Text in front of the question that is encoded with it.
        trail: Text behind the question that is encoded with it.
        continued: Whether lead and question continue a text; see :meth:`Tokenizer.encode`.
    """

    prefix: tuple[int, ...]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    tokenizer: Tokenizer
    lead: str = ""
    trail: str = ""
    continued: bool = False

    def tail(self, question: str) -> list[int]:
        """Ids from the end of the document to the start of the answer."""
        text = self.lead + question + self.trail
        asked = self.tokenizer.encode(text, continued=self.continued).ids.tolist()
        return [*self.opening, *asked, *self.closing]


class Prompts(ABC):
    """The prompts of one form: whole texts, streams, passages, later turns of a conversation.

    Args:
        tokenizer: Encodes the parts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def whole(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The prompt around a text that fits the trained length.

        Args:
            earlier: Turns of the conversation so far, which come first, without their text.

        Raises:
            ModelError: The template fails, or drops or duplicates the user's turn.
        """

    @abstractmethod
    def after_stream(self) -> Prompt:
        """The prompt of a stream that any question can follow: BOS before it, all else after it.

        Raises:
            ModelError: The template fails, or drops or duplicates the user's turn.
        """

    @abstractmethod
    def later_turn(self) -> Prompt:
        """The prompt between one answer and the next in a conversation; it has no prefix.

        Raises:
            ModelError: The template fails, or drops or duplicates the user's turn.
        """

    def around_passages(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The prompt around passages of a stream; see :meth:`whole`."""
        return self.whole(earlier)

    def for_instructions(self) -> "Prompts":
        """The same prompts for instructions, which take no label."""
        return self

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text).ids.tolist())


def prompts_of(
    tokenizer: Tokenizer,
    template: Template | None,
    system: str | None = None,
    label: str = QUESTION_LABEL,
) -> Prompts:
    """The prompts of a model: in its chat template, or plain text if it has none.

    Args:
        tokenizer: The model's tokenizer.
        template: The model's chat template, if it has one.
        system: Text of the system turn, if the user gave one.
        label: Precedes a question that shares a turn with the text; an instruction needs none.
    """
    if template is None:
        return PlainPrompts(tokenizer, system)
    return ChatPrompts(tokenizer, template, system, label)


class ChatPrompts(Prompts):
    """Prompts in the model's own chat template; for the arguments see :func:`prompts_of`.

    A whole text goes inside the user turn, before the question. A stream is followed by a user turn
    of its own, opened as the template opens a later turn: without the system turn that many
    templates put in front of the first one.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, system: str | None, label: str
    ) -> None:
        super().__init__(tokenizer)
        self._template = template
        self._system = system
        self._label = label

    def whole(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The text inside the user turn, before the question."""
        messages = [] if self._system is None else [{"role": "system", "content": _SYSTEM}]
        outside = [text for turn in earlier for text in turn]
        for number in range(0, len(outside), 2):
            messages.append({"role": "user", "content": _outside(number)})
            messages.append({"role": "assistant", "content": _outside(number + 1)})
        messages.append({"role": "user", "content": f"{_DOCUMENT}\n\n{self._label}{_QUESTION}"})
        rendered = self._template.render(messages)
        prefix, opening, closing = self._split(rendered, [_DOCUMENT, _QUESTION], outside)
        return Prompt(prefix, opening, closing, self.tokenizer)

    def after_stream(self) -> Prompt:
        """A user turn after the text."""
        asked = _QUESTION if self._system is None else f"{_SYSTEM}\n\n{_QUESTION}"
        ended = self._template.render(_TALK, answer=False).rpartition(_DOCUMENT)[2]
        opening, closing = self._split(self._behind_talk(asked).removeprefix(ended), [_QUESTION])
        prefix = tuple(self.tokenizer.prefix)
        return Prompt(prefix, (*self._ids("\n\n"), *opening), closing, self.tokenizer)

    def later_turn(self) -> Prompt:
        """The end of the assistant's turn, and another user turn."""
        opening, closing = self._split(self._behind_talk(_QUESTION), [_QUESTION])
        return Prompt((), opening, closing, self.tokenizer)

    def for_instructions(self) -> Prompts:
        """The same prompts for instructions, which take no label."""
        return ChatPrompts(self.tokenizer, self._template, self._system, "")

    def _behind_talk(self, asked: str) -> str:
        """The text that the template puts after the answer of an earlier turn."""
        rendered = self._template.render([*_TALK, {"role": "user", "content": asked}])
        return rendered.rpartition(_DOCUMENT)[2]

    def _split(
        self, rendered: str, marks: Sequence[str], outside: Sequence[str] = ()
    ) -> list[tuple[int, ...]]:
        """Ids of the parts around the marks, each of which must occur once and in order."""
        parts = _MARKS.split(rendered)
        if parts[1::2] != list(marks):
            raise ModelError("the model's chat template does not keep the user's turn unchanged")
        return [self._encode(part, outside) for part in parts[::2]]

    def _encode(self, part: str, outside: Sequence[str]) -> tuple[int, ...]:
        """Ids of a part of the template; texts from outside within it are encoded as plain text."""
        texts = {_SYSTEM: self._system or ""}
        texts |= {_outside(number): text for number, text in enumerate(outside)}
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(texts)})", part):
            if piece in texts:
                ids += self._ids(texts[piece])
            else:
                ids += self.tokenizer.encode_template(piece)
        return tuple(ids)


class PlainPrompts(Prompts):
    """Prompts of plain text, for a model without a chat template."""

    def __init__(self, tokenizer: Tokenizer, system: str | None) -> None:
        super().__init__(tokenizer)
        self._system = system

    def whole(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The text, then the question after its label."""
        opening = "\n\n" if self._system is None else f"\n\n{self._system}\n\n"
        said = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in earlier)
        return Prompt(
            (*self.tokenizer.prefix, *self._ids(said)),
            self._ids(f"{opening}Question:"),
            self._ids("\nAnswer:"),
            self.tokenizer,
            lead=" ",
        )

    def after_stream(self) -> Prompt:
        """The same as :meth:`whole`."""
        return self.whole()

    def later_turn(self) -> Prompt:
        """Another question after its label; the system text is not repeated."""
        first = PlainPrompts(self.tokenizer, None).whole()
        return Prompt((), first.opening, first.closing, self.tokenizer, first.lead)


class ContinuationPrompts(Prompts):
    """A text that the model simply continues: the question is the last sentence of the text.

    Args:
        tokenizer: Encodes the parts.
        introduction: Text at the beginning of the document that says what it is about; it is
            repeated in front of passages.
    """

    def __init__(self, tokenizer: Tokenizer, introduction: str = "") -> None:
        super().__init__(tokenizer)
        self._introduction = introduction

    def whole(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """Nothing stands between the text and the question.

        Raises:
            ValueError: There are earlier turns; a text that is continued has none.
        """
        if earlier:
            raise ValueError("a text that is continued has no earlier turns")
        return Prompt(tuple(self.tokenizer.prefix), (), (), self.tokenizer, continued=True)

    def after_stream(self) -> Prompt:
        """The same as :meth:`whole`."""
        return self.whole()

    def later_turn(self) -> Prompt:
        """Not possible; see :meth:`whole`.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a text that is continued has no earlier turns")

    def around_passages(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The introduction and the question each in a paragraph of its own, as passages are."""
        prompt, gap = self.whole(earlier), self._ids("\n\n")
        introduced = (*self._ids(self._introduction), *gap) if self._introduction else ()
        return Prompt((*prompt.prefix, *introduced), gap, (), self.tokenizer, continued=True)


def _outside(number: int) -> str:
    """The placeholder in the template for text number ``number`` of the conversation so far."""
    return f"\ue000outside{number}\ue000"
