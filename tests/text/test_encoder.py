"""Pieces give the tokens of the whole, whoever encodes them; and every doubt ends with stock."""

from collections.abc import Iterator

import numpy as np
import pytest
from fast_tokenizers import (
    CODE,
    PROSE,
    SCRIPTS,
    SENTENCEPIECE,
    byte_level,
    sentencepiece,
    unigram,
)

from lmi_cli.sources import Block
from lmi_cli.text.bytelevel import ByteLevelBPE
from lmi_cli.text.encoded import Encoded
from lmi_cli.text.encoder import StreamEncoder
from lmi_cli.text.provenance import Provenance
from lmi_cli.text.stream import TokenBlock, tokenize
from lmi_cli.text.tokenizer import Tokenizer

_RANDOM = np.random.default_rng(0)
TEXTS = {
    "prose": PROSE * 150,
    "code": CODE * 400,
    "scripts": SCRIPTS * 700,
    "one-line": PROSE.replace("\n", " ") * 150,
    "letters": "a" * 100_000,
    "words-unbroken": "".join(_RANDOM.choice(list("abcdehilnorst"), 90_000)),
    "digits": "".join(_RANDOM.choice(list("0123456789"), 90_000)),
    "cjk": "中文字符没有空格。日本語" * 8_000,
    "spaces": " " * 90_000 + "x" + " " * 40_000,
    "line-feeds": "\n" * 90_000 + "x",
    "crlf": "a b\r\n\r\n" * 12_000,
    "mixed-spaces": "".join(_RANDOM.choice(["a", " ", "  ", "\n", "1", "\t", "é"], 60_000)),
}
TOKENIZERS = {
    **dict.fromkeys(("digits-each", "llama3", "nfc", "prefix"), byte_level),
    **dict.fromkeys(SENTENCEPIECE, sentencepiece),
    "unigram": lambda _: unigram(),
}


def _blocks(text: str, size: int = 20_000) -> Iterator[Block]:
    for start in range(0, len(text), size):
        yield Block(0, text[start : start + size], start)


def _joined(blocks: list[TokenBlock]) -> Encoded:
    ids = np.concatenate([block.ids for block in blocks])
    return Encoded(ids, np.concatenate([block.starts for block in blocks]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for name in TOKENIZERS
        for text in TEXTS
        # A unigram model may read a run in several equally likely ways.
        if name != "unigram" or text in ("prose", "code", "scripts", "one-line", "cjk", "crlf")
    ],
)
def test_pieces_give_the_tokens_of_the_whole(name: str, text: str) -> None:
    tokenizer = Tokenizer(TOKENIZERS[name](name))
    encoder = StreamEncoder(tokenizer, fast_after=0)
    pieces = list(tokenize(_blocks(TEXTS[text]), tokenizer, Provenance(), encoder))
    assert "".join(piece.text for piece in pieces) == TEXTS[text]
    assert len(pieces) > 1 and max(len(piece.text) for piece in pieces) <= 65_536
    assert _joined(pieces).same_as(tokenizer.encode(TEXTS[text]))
    assert encoder.engine == (
        "tiktoken" if name in ("digits-each", "llama3", "nfc", "prefix") else "tokenizers"
    )


def _run(tokenizer: Tokenizer, text: str, **settings: int) -> tuple[Encoded, StreamEncoder]:
    encoder = StreamEncoder(tokenizer, **settings)
    return _joined(list(tokenize(_blocks(text), tokenizer, Provenance(), encoder))), encoder


def test_a_short_text_never_pays_for_the_faster_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(byte_level("gpt2"))
    monkeypatch.setattr(tokenizer, "fast", lambda: pytest.fail("was built"))
    assert _run(tokenizer, PROSE * 300)[1].engine == "tokenizers"


def test_an_unsupported_tokenizer_is_said_to_be_one() -> None:
    encoder = _run(Tokenizer(sentencepiece("gemma")), PROSE * 150, fast_after=0)[1]
    assert encoder.notes == ["tokenised without tiktoken: its normalizer is Replace"]


class _Wrong(ByteLevelBPE):
    """Misreads one word."""

    word = "fortune"

    def encode(self, text: str) -> Encoded | None:
        encoded = super().encode(text)
        if encoded is not None and self.word in text:
            encoded.ids[-1] += 1
        return encoded


@pytest.mark.parametrize("word", ["🇩🇪", "width"])
def test_a_difference_at_the_start_means_stock(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """In the self-check, and in the first piece."""
    tokenizer = Tokenizer(byte_level("gpt2"))
    wrong = _Wrong(byte_level("gpt2"))
    wrong.word = word
    monkeypatch.setattr(tokenizer, "fast", lambda: wrong)
    text = CODE * 400 + PROSE * 300
    encoded, encoder = _run(tokenizer, text, fast_after=0)
    assert encoder.engine == "tokenizers"
    assert encoder.notes[0].startswith("tokenised without tiktoken: it differs")
    assert encoded.same_as(tokenizer.encode(text))


def test_a_difference_in_a_sample_ends_the_faster_path(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(byte_level("gpt2"))
    monkeypatch.setattr(tokenizer, "fast", lambda: _Wrong(byte_level("gpt2")))
    monkeypatch.setattr("lmi_cli.text.encoder._SAMPLE_EVERY", 1)
    text = CODE * 400 + PROSE * 300
    _, encoder = _run(tokenizer, text, fast_after=0)
    assert encoder.engine == "tokenizers"
    assert "differed from the model's own tokenizer" in encoder.notes[0]


def test_a_longer_run_than_before_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(byte_level("gpt2"))
    wrong = _Wrong(byte_level("gpt2"))
    wrong.word = "x" * 300
    monkeypatch.setattr(tokenizer, "fast", lambda: wrong)
    text = PROSE * 200 + "x" * 300 + PROSE * 200
    encoded, encoder = _run(tokenizer, text, fast_after=0)
    assert encoder.engine == "tokenizers"
    assert "differed from the model's own tokenizer" in encoder.notes[0]
    assert encoded.same_as(tokenizer.encode(text))
