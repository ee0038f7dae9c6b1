"""Words of every rule by which vocabularies of GGUF files split text, and pieces by scores.

Found equal to the tokens of llama.cpp (xllamacpp 2026.10), given a vocabulary in which whatever is
not split becomes one token; by the same way, 1,577 other texts were compared. It departs from the
tokenizer.json of the models, and we do not: with capitals inside a word and marks (`gpt-4o`,
`tekken`, `kimi-k2`, `youtu`, `tiny_aya`, `granite-embed-multi-97m`), where ours were compared with
the published expressions, run by another engine; with blanks before digits (`tiny_aya`, `afmoe`);
with white space and digits outside ASCII (`deepseek-llm`, `deepseek-coder`, `superbpe`).
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_builders import tiny_gguf

from lmi_cli.checkpoints import gguf
from lmi_cli.checkpoints.gguf_splits import SPLITS
from lmi_cli.checkpoints.gguf_vocabulary import (
    read_vocabulary,
    tokenizer_of,
    tokenizer_settings,
    word_splitter,
)
from lmi_cli.errors import ModelError

TEXTS = (
    "I'm WE'LL don't \u00e9t\u00e9 1234567 x55 a.b!? \n\n  y=$2; 中文。か\r\n\t(z) '99",
    "he's aBc of x !\n\n\nx\n       y `z /k1 12345\n/w e\u0301g",
)
WORDS: dict[str, list[str]] = json.loads((Path(__file__).parent / "gguf_words.json").read_bytes())
"""The words of both texts, with a bar between them, by the first name of each rule."""


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    splitter = word_splitter(SPLITS[name])
    for text, expected in zip(TEXTS, WORDS[name], strict=True):
        words = [text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)]
        assert words == expected.split("¦")


def test_every_rule_is_in_the_table() -> None:
    assert {SPLITS[name] for name in WORDS} == set(SPLITS.values())


def encoder(path: Path) -> Callable[[str], list[str]]:
    """The tokens of a text by the tokenizer in a file."""
    header = gguf.read_header(path)
    vocabulary = read_vocabulary(path, header)
    tokenizer = tokenizer_of(path, header, vocabulary)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_words_that_are_tokens_need_no_merges(tmp_path: Path) -> None:
    def tokens(pre: str) -> list[str]:
        path = tiny_gguf(tmp_path / f"{pre}.gguf", pre=pre, more_tokens=["ab", "<a>"])
        return encoder(path)("ab <a>")

    merged = ["a", "b", "\u0120", "<", "a", ">"]
    assert tokens("qwen2") == merged
    assert tokens("llama-bpe") == ["ab", *merged[2:]]


# Scores are not in the order of ids; "b" is no piece, and is spelled in bytes.
PIECES = {
    "a": -9, "aa": -2, "\u2581": -8, "\u2581a": -1, "\u2581\u2581": -3, "aaa": -4, "c": -9,
    "ca": -5, "ac": -0.5, "\u2581c": -7, "<s": -1, "<": -9, "s": -9, ">": -9,
}  # fmt: skip
OTHERS = {"<s>": 3, "  \n": 4, "<|user|>": 3, "<|end|>": 3}
# As llama.cpp encodes them, with a space in front of each text and without.
ENCODED = {
    "a": ("\u2581a", "a"),
    "aaaa": ("\u2581a|aaa", "aa|aa"),
    "aac": ("\u2581a|ac", "a|ac"),
    " a": ("\u2581|\u2581a", "\u2581a"),
    "   c": ("\u2581\u2581|\u2581\u2581|c", "\u2581\u2581|\u2581c"),
    "caca": ("\u2581c|ac|a", "c|ac|a"),
    "b\u00e9": ("\u2581|<0x62>|<0xC3>|<0xA9>", "<0x62>|<0xC3>|<0xA9>"),
    "a<|user|>a": ("\u2581a|<|user|>|\u2581a", "a|<|user|>|a"),
    "a  \n c": ("\u2581a|  \n|\u2581\u2581|c", "a|  \n|\u2581c"),
    "<s>a": ("<s>|\u2581a", "<s>|a"),
    "<s": ("\u2581|<s", "<s"),
}


def pieces_gguf(path: Path, **options: Any) -> Path:
    """A model whose vocabulary is pieces with scores."""
    pieces: dict[str, tuple[int, float]] = {"<unk>": (2, 0.0)}
    pieces |= {token: (kind, 0.0) for token, kind in OTHERS.items()}
    pieces |= {f"<0x{byte:02X}>": (6, 0.0) for byte in range(256)}
    pieces |= {piece: (1, float(score)) for piece, score in PIECES.items()}
    return tiny_gguf(path, pieces=pieces, **options)


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces(prefix: bool, tmp_path: Path) -> None:
    path = pieces_gguf(
        tmp_path / "m.gguf", extra=lambda writer: writer.add_add_space_prefix(prefix)
    )
    encode = encoder(path)
    for text, expected in ENCODED.items():
        found = "|".join(encode(text))
        assert found == expected[0 if prefix else 1], text


SLOW_BEFORE = {"tiny_aya": "1", "superbpe": "1", "afmoe": "\u00bd", "deepseek-llm": "\u00a0"}


@pytest.mark.parametrize("name", SLOW_BEFORE)
def test_a_long_run_of_one_character_takes_linear_time(name: str) -> None:
    """With the square of the length, it would be more than 5 seconds."""
    splitter, started = word_splitter(SPLITS[name]), time.thread_time()
    assert splitter.pre_tokenize_str(SLOW_BEFORE[name] * 60_000 + "1x")
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("name", ["tiny_aya", "superbpe", "afmoe"])
def test_numbers_are_split_in_threes_from_the_right(name: str) -> None:
    def words(text: str) -> list[str]:
        return [word for word, _ in word_splitter(SPLITS[name]).pre_tokenize_str(text)]

    for number in ("1", "12", "123", "1234", "12345", "123456", "1234567"):
        first = len(number) % 3
        threes = [number[at : at + 3] for at in range(first, len(number), 3)]
        assert words(number) == [number[:first]] * bool(first) + threes


def test_a_template_of_megabytes_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(
        tmp_path / "m.gguf", extra=lambda writer: writer.add_chat_template("x" * 2**21)
    )
    header = gguf.read_header(path)
    with pytest.raises(ModelError, match="its chat template is 2,097,152 characters long"):
        tokenizer_settings(path, header, read_vocabulary(path, header))


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "a token twice": ({"more_tokens": ["ab", "ab"]}, "its token 262 is the same as token 261"),
    "a huge token": ({"more_tokens": ["a" * 3_000]}, "its token 261 is 3,000 characters long"),
    "a merge of none": (
        {"extra": lambda writer: writer.add_array("tokenizer.ggml.merges", ["a b"])},
        "its merge 0 is not one of two of its tokens",
    ),
    "merges are numbers": (
        {"extra": lambda writer: writer.add_array("tokenizer.ggml.merges", [1, 2])},
        "should hold text",
    ),
    "types are text": (
        {"extra": lambda writer: writer.add_array("tokenizer.ggml.token_type", ["a"] * 261)},
        "should hold numbers",
    ),
    "few types": (
        {"extra": lambda writer: writer.add_array("tokenizer.ggml.token_type", [1, 1])},
        "261 tokens but 2 token_types",
    ),
    "no such BOS": (
        {"extra": lambda writer: writer.add_uint32("tokenizer.ggml.bos_token_id", 1_000)},
        "its bos token, 1000, is none of its tokens",
    ),
    "a score is none": (
        {"pieces": {"<unk>": (2, 0.0), "a": (1, 0.0), "aa": (1, float("nan"))}},
        "a score of its vocabulary is not a number",
    ),
    "another kind": (
        {"extra": lambda writer: writer.add_string("tokenizer.ggml.model", "rwkv")},
        "its tokenizer is of the kind 'rwkv'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_vocabularies_are_refused(name: str, tmp_path: Path) -> None:
    options, message = DAMAGED[name]
    with pytest.raises(ModelError, match=message):
        encoder(tiny_gguf(tmp_path / "m.gguf", **options))


def test_the_end_of_a_turn_is_known_by_name(tmp_path: Path) -> None:
    """A file of an old converter names the end of a text only."""
    path = pieces_gguf(
        tmp_path / "m.gguf",
        extra=lambda writer: writer.add_uint32("tokenizer.ggml.eos_token_id", 1),
    )
    vocabulary = read_vocabulary(path, gguf.read_header(path))
    assert [vocabulary.tokens[end] for end in vocabulary.ends] == ["<s>", "<|end|>"]
