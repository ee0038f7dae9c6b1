"""The ids of a question and of what stands around it, behind a reading or in its own prompt."""

from collections.abc import Sequence

import numpy as np

from lmi_cli.engine.engine import Ids
from lmi_cli.text.prompts import Prompt, Prompts, Turn
from lmi_cli.text.tokenizer import Tokenizer

_CONVERSATION_SHARE = 8


class QuestionPrompts:
    """Prompts for questions about one reading, with as much of a conversation as has room in them.

    Args:
        tokenizer: The model's.
        prompts: The prompts of the model.
        behind: What follows the reading.
        window: Tokens that a question behind the reading sees.
        length: Trained length of the model, in tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompts: Prompts, behind: Prompt, window: int, length: int
    ) -> None:
        self._tokenizer, self._prompts, self._behind = tokenizer, prompts, behind
        self._window, self._length = window, length

    def tail(self, question: str, earlier: Sequence[Turn]) -> list[int]:
        """Ids of a question that follows the document and the conversation so far.

        Half of the window is left to the text.
        """
        if not earlier:
            return self._behind.tail(question)
        later = self._prompts.later_turn()
        asked, answers = zip(*earlier, strict=True)
        ids = self._behind.tail(asked[0])
        for answer, following in zip(answers, [*asked[1:], question], strict=True):
            ids += self._tokenizer.encode(answer).ids.tolist() + later.tail(following)
        return ids if len(ids) <= self._window // 2 else self.tail(question, earlier[1:])

    def around(self, text: Ids, question: str, earlier: Sequence[Turn]) -> tuple[Ids, Ids]:
        """The ids of a prompt with a text in front of the question, and of the same without it."""
        prompt = self._fresh(earlier)
        before = np.array(prompt.prefix, dtype=np.int32)
        tail = np.array(prompt.tail(question), dtype=np.int32)
        return np.concatenate([before, text, tail]), np.concatenate([before, tail])

    def room(self, question: str, earlier: Sequence[Turn], answer_tokens: int) -> int:
        """Tokens of text for which such a prompt has room, beside question and answer."""
        prompt = self._fresh(earlier)
        return self._length - len(prompt.prefix) - len(prompt.tail(question)) - answer_tokens

    def _fresh(self, earlier: Sequence[Turn]) -> Prompt:
        prompt = self._prompts.around_passages(earlier)
        long = earlier and len(prompt.prefix) > self._length // _CONVERSATION_SHARE
        return self._fresh(earlier[1:]) if long else prompt


def looked_for(question: str, earlier: Sequence[Turn]) -> str:
    """What is looked for: a follow-up question is rarely clear without the one before it."""
    return " ".join([*(asked for asked, _ in earlier[-1:]), question])
