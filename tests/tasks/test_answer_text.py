"""The text of an answer: ended before it repeats itself, or kept word for word."""

import pytest
from chat_model import build_tokenizer

from lmi_cli.tasks.answer_text import AnswerText
from lmi_cli.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(build_tokenizer())
SAID = "\n The sky is blue and wide. The sky is blue and wide. é"


@pytest.mark.parametrize(("verbatim", "text"), [(False, "The sky is blue and wide."), (True, SAID)])
def test_text(verbatim: bool, text: str) -> None:
    answer = AnswerText(TOKENIZER, "?", verbatim=verbatim)
    pieces = []
    for token in TOKENIZER.encode(SAID).ids.tolist():
        ended = answer.push(token)
        pieces.append(answer.take(final=ended))
        if ended:
            break
    pieces.append(answer.take(final=True))
    assert "".join(pieces) == answer.text
    assert answer.text.rstrip() == text.rstrip()
    assert answer.repeats is not verbatim
