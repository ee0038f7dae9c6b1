"""Prompts in given words, such as those that a data set is published with."""

from collections.abc import Sequence
from dataclasses import replace

from lmi_cli.text.prompts import ChatPrompts, Prompt, Prompts, Template, Turn
from lmi_cli.text.tokenizer import Tokenizer


class TaskPrompts(Prompts):
    """One user turn: the text, then ``lead``, the question and ``trail``, with nothing between.

    Words in front of the text are part of the text that is read, so they are repeated in front of
    passages only. The prompt of a stream is the same.

    Args:
        tokenizer: The model's tokenizer.
        template: The model's chat template; None leaves the words as they are.
        system: Text of the system turn; without a template, it stands in front of the text.
        lead: Words between the text and the question.
        trail: Words behind the question.
        before: Words in front of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | None,
        system: str | None,
        lead: str,
        trail: str,
        before: str = "",
    ) -> None:
        super().__init__(tokenizer)
        if template is not None:
            turn = ChatPrompts(tokenizer, template, system, label="").whole()
            prefix, closing = turn.prefix, turn.closing
        else:
            said = () if system is None else self._ids(f"{system}\n\n")
            prefix, closing = (*tokenizer.prefix, *said), ()
        self._prompt = Prompt(prefix, (), closing, tokenizer, lead, trail)
        self._passages = replace(self._prompt, prefix=(*prefix, *self._ids(before)))

    def whole(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The words, in one turn.

        Raises:
            ValueError: There are earlier turns; a task has none.
        """
        if earlier:
            raise ValueError("a task has no earlier turns")
        return self._prompt

    def after_stream(self) -> Prompt:
        """The same as :meth:`whole`."""
        return self._prompt

    def around_passages(self, earlier: Sequence[Turn] = ()) -> Prompt:
        """The words with passages in place of the text.

        Raises:
            ValueError: There are earlier turns; a task has none.
        """
        self.whole(earlier)
        return self._passages

    def later_turn(self) -> Prompt:
        """Not possible; see :meth:`whole`.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a task has no later turns")
