"""The text of an answer: ended before it repeats itself, kept word for word, or a line of it."""

import pytest
from chat_model import build_tokenizer

from lmi_cli.tasks.answer_text import AnswerText, FirstLineText, VerbatimText
from lmi_cli.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(build_tokenizer())
SAID = "\n The sky is blue and wide. The sky is blue and wide.\n\nAnd é"


@pytest.mark.parametrize(
    ("kind", "text", "repeats"),
    [
        (AnswerText, "The sky is blue and wide.", True),
        (VerbatimText, SAID, False),
        (FirstLineText, SAID.removesuffix("\nAnd é"), False),
    ],
)
def test_text(kind: type[AnswerText], text: str, repeats: bool) -> None:
    answer = kind(TOKENIZER, "?")
    pieces, ids = [], TOKENIZER.encode(SAID).ids.tolist()
    for count, token in enumerate(ids, 1):
        ended = answer.push(token)
        pieces.append(answer.take(final=ended))
        assert answer.tokens == count
        if ended:
            break
    pieces.append(answer.take(final=True))
    assert "".join(pieces) == answer.text
    assert answer.text.rstrip(" ") == text
    assert answer.repeats is repeats
    assert ended is (kind is not VerbatimText)


def test_a_first_line_that_never_comes() -> None:
    answer = FirstLineText(TOKENIZER, "?")
    assert not any(answer.push(token) for token in TOKENIZER.encode("\n\n\nblue").ids.tolist())
    assert answer.take(final=True) == "\n\n\nblue"
