"""Tokens by source, without looking back."""

from collections.abc import Iterator

import numpy as np
from chat_model import build_tokenizer

from lmi_cli.sources import Block
from lmi_cli.text.provenance import Provenance, SourceCounter
from lmi_cli.text.stream import tokenize
from lmi_cli.text.tokenizer import Tokenizer


def _blocks() -> Iterator[Block]:
    random = np.random.default_rng(0)
    for source in range(40):
        yield Block(source, f"\n==> {source} <==\n", 0, header=True)
        for part in range(random.integers(0, 4)):
            yield Block(source, "It is 12 o'clock,\n " * int(random.integers(1, 700)), part)


def test_it_counts_as_the_full_record_does() -> None:
    tokenizer = Tokenizer(build_tokenizer())
    counter, provenance, counts = SourceCounter(), Provenance(), [0]
    for piece in tokenize(_blocks(), tokenizer, counter):
        counter.count(piece.starts)
    for piece in tokenize(_blocks(), tokenizer, provenance):
        provenance.count_by_source(piece.starts, counts)
    assert counter.tokens == counts
    assert len(counter._ahead) <= 1
