"""Pieces of a text give the tokens of the whole, and every token knows its place."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.sources.blocks import Block, Corpus
from lmi_cli.text import stream
from lmi_cli.text.provenance import Place, Provenance
from lmi_cli.text.stream import TokenStream, tokenize
from lmi_cli.text.tokenizer import Tokenizer

from .conftest import KINDS

WORDS = st.sampled_from(
    ["the", "grass", "it's", "naïve", "don't.", "12345", "3.14", "日本語", "שלום", "👩‍👩‍👧", "--",
     "\n", "\n\n", "\t", "\r\n", "  ", "    ", "\u00a0", "e\u0301", "<|im_end|>", "\x0c"]
)  # fmt: skip
TEXT = st.lists(st.tuples(WORDS, st.sampled_from(["", " "])), min_size=1, max_size=60).map(
    lambda parts: "".join(word + space for word, space in parts)
)


def cut(text: str, size: int) -> Iterator[Block]:
    for start in range(0, len(text), size):
        yield Block(0, text[start : start + size], start)


def encode_all(text: str, tokenizer: Tokenizer, size: int) -> tuple[list[int], list[int], str]:
    blocks = list(tokenize(cut(text, size), tokenizer, Provenance()))
    assert [block.offset for block in blocks] == [
        sum(len(b.text) for b in blocks[:n]) for n in range(len(blocks))
    ]
    ids = [token for block in blocks for token in block.ids.tolist()]
    starts = [start for block in blocks for start in block.starts.tolist()]
    return ids, starts, "".join(block.text for block in blocks)


@pytest.mark.parametrize("kind", list(KINDS))
@given(text=TEXT, size=st.integers(1, 50), piece=st.integers(1, 20))
def test_pieces_give_the_tokens_of_the_whole(kind: str, text: str, size: int, piece: int) -> None:
    tokenizer = Tokenizer(KINDS[kind]()) if kind not in _MADE else _MADE[kind]
    _MADE[kind] = tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_PIECE_CHARS", piece)
        ids, starts, joined = encode_all(text, tokenizer, size)
    whole = tokenizer.encode(text)
    assert joined == text
    assert ids == whole.ids.tolist()
    assert starts == whole.starts.tolist()


_MADE: dict[str, Tokenizer] = {}


@pytest.mark.parametrize(
    "text",
    [
        "word " * 100_000,
        "a line of text\n" * 20_000,
        "a line\r\n\r\n" * 40_000,
        "日本語" * 50_000 + " ende",
        "=" * 100_000 + "\n" + "x " * 9,
        " " * 100_000 + "x",
    ],
    ids=["words", "lines", "crlf", "cjk", "rule", "blank"],
)
def test_long_texts(text: str) -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    ids, _, joined = encode_all(text, tokenizer, 32768)
    assert joined == text
    assert ids == tokenizer.encode(text).ids.tolist()


def test_a_line_without_end_is_cut_somewhere_and_nothing_is_lost() -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    text = "日本語" * 200_000
    blocks = list(tokenize(cut(text, 32768), tokenizer, Provenance()))
    assert max(len(block.text) for block in blocks) <= stream._LONGEST_PIECE_CHARS
    assert tokenizer.decode([i for block in blocks for i in block.ids.tolist()]) == text


def test_bytes_of_tokens() -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    text = "naïve 日本"
    (block,) = tokenize([Block(0, text, 0)], tokenizer, Provenance())
    count = len(block.ids)
    sizes = block.utf8_bytes()
    assert len(sizes) == count and sizes.sum() == len(text.encode())
    for token in range(count):
        end = int(block.starts[token + 1]) if token + 1 < count else len(text)
        assert sizes[token] == len(text[int(block.starts[token]) : end].encode())


def test_each_source_alone_is_encoded_from_its_start() -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    texts = ["The grass", " is green.\n" * 9000, "日本"]
    blocks = []
    for source, text in enumerate(texts):
        blocks.append(Block(source, f"==> {source} <==\n", 0, header=True))
        blocks += [replace(block, source=source) for block in cut(text, 5000)]
    found = {}
    for source, part in TokenStream(Corpus(blocks), tokenizer).by_source():
        found[source] = [i for block in part.blocks(Provenance()) for i in block.ids.tolist()]
    assert found == {n: tokenizer.encode(text).ids.tolist() for n, text in enumerate(texts)}


def make_corpus() -> list[Block]:
    return [
        Block(0, "==> a.txt <==\n", 0, header=True),
        Block(0, "one\ntwo\n", 0, line=1),
        Block(0, "three\nfour", 8, line=3),
        Block(1, "\n\n==> b.pdf <==\n", 0, header=True),
        Block(1, "Page one.", 0, page=1, label="i"),
        Block(1, "Page two.", 9, page=2, label="1"),
    ]


def test_every_character_knows_its_place() -> None:
    provenance, offset = Provenance(), 0
    blocks = make_corpus()
    for block in blocks:
        provenance.add(block)
    for block in blocks:
        for index in range(len(block.text)):
            line = None if block.line is None else block.line + block.text[:index].count("\n")
            char = None if block.header else block.char_start + index
            expected = Place(block.source, char, block.page, block.label, line)
            assert provenance.locate(offset) == expected
            offset += 1
    assert offset == provenance.chars
    for outside in (-1, offset):
        with pytest.raises(IndexError):
            provenance.locate(outside)


def test_tokens_are_counted_by_source() -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    provenance, counts, expected = Provenance(), [], [0, 0]
    for block in tokenize(make_corpus(), tokenizer, provenance):
        provenance.count_by_source(block.starts, counts)
        for start in block.starts.tolist():
            place = provenance.locate(start)
            expected[place.source] += place.char is not None
    assert counts == expected
    provenance.count_by_source(np.array([], dtype=np.int64), counts)
    assert counts == expected
