"""tiktoken stands in only where it gives the stock tokenizer's tokens, and then it gives them."""

import json

import numpy as np
import pytest
import tokenizers
from fast_tokenizers import BYTE_LEVEL, CORPUS, byte_level, changed, every_merge, sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lmi_cli.text.bytelevel import UnsupportedTokenizerError
from lmi_cli.text.samples import SAMPLES
from lmi_cli.text.tokenizer import Tokenizer

FORMS = {
    **dict.fromkeys(BYTE_LEVEL, byte_level),
    "gpt2-every-merge": lambda _: every_merge(byte_level("gpt2")),
    "llama3-every-merge": lambda _: every_merge(byte_level("llama3")),
}


def _tokenizer(name: str) -> Tokenizer:
    return Tokenizer(FORMS[name](name))


def _agree(tokenizer: Tokenizer, text: str) -> bool:
    """Whether tiktoken was used; that it is right is asserted."""
    fast, stock = tokenizer.fast().encode(text), tokenizer.encode(text, continued=True)
    if fast is None:
        return False
    assert fast.ids.tolist() == stock.ids.tolist()
    assert fast.starts.tolist() == stock.starts.tolist()
    assert (fast.ids.dtype, fast.starts.dtype) == (np.int32, np.int64)
    return True


@pytest.mark.parametrize("name", FORMS)
def test_samples_and_corpus_give_the_stock_tokens_and_places(name: str) -> None:
    tokenizer = _tokenizer(name)
    used = [_agree(tokenizer, text) for text in (*SAMPLES, *CORPUS, "")]
    assert sum(used) >= len(used) - (3 if name == "nfc" else 0)


@pytest.mark.parametrize("name", ["gpt2", "digits-each", "llama3-every-merge"])
@given(text=st.text(st.sampled_from("ab 1\n\t\r'sé中👍🏽\u0301\u00a0.-<|end>T") | st.characters()))
@settings(max_examples=150)
def test_any_text_gives_the_stock_tokens_and_places(name: str, text: str) -> None:
    _agree(_tokenizer(name), text.encode("utf-8", "replace").decode())


def test_a_token_within_a_character_begins_where_the_character_does() -> None:
    encoded = _tokenizer("gpt2").fast().encode("a🜁b")
    assert encoded is not None
    first, *inside, last = encoded.starts.tolist()
    assert (first, set(inside), last) == (0, {1}, 2) and len(inside) > 1


def test_text_is_not_normalised_behind_the_back_of_its_offsets() -> None:
    tokenizer = _tokenizer("nfc")
    assert tokenizer.fast().encode("e\u0301") is None
    assert tokenizer.fast().encode("é") is not None


def test_a_special_token_in_a_document_is_spelled_out() -> None:
    tokenizer = _tokenizer("gpt2")
    encoded = tokenizer.fast().encode("x<|end|>")
    assert encoded is not None and 0 not in encoded.ids
    assert tokenizer.decode(encoded.ids.tolist()) == "x<|end|>"


def test_a_byte_that_the_vocabulary_lacks_is_left_to_the_stock_tokenizer() -> None:
    backend = byte_level("gpt2")
    model = json.loads(backend.to_str())["model"]
    del model["vocab"]["ā"]  # stands for byte 1
    fast = Tokenizer(changed(backend, vocab=model["vocab"])).fast()
    assert fast.encode("a\x01b") is None
    assert fast.encode("a\x02b") is not None


@pytest.mark.parametrize("text", [" " * 2**20, "\ud800", "\U00011de0"])
def test_what_its_expressions_cannot_do_is_left_to_the_stock_tokenizer(text: str) -> None:
    assert _tokenizer("gpt2").fast().encode(text) is None


def test_a_pattern_that_skips_text_is_noticed() -> None:
    backend = byte_level("llama3")
    description = json.loads(backend.to_str())
    description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+"
    fast = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(description))).fast()
    assert fast.encode("ab cd") is None
    assert fast.encode("abcd") is not None


def test_a_token_that_merging_never_makes_is_never_made() -> None:
    # "abc" can only come from "ab" and "c", but "bc" is merged first.
    merges = [["b", "c"], ["a", "b"], ["ab", "c"]]
    backend = byte_level("gpt2")
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    letters = {token: rank for token, rank in vocabulary.items() if len(token) == 1}
    for left, right in merges:
        letters[left + right] = 1000 + len(letters)
    tokenizer = Tokenizer(changed(backend, vocab=letters, merges=merges))
    assert tokenizer.decode(tokenizer.encode("abc").ids.tolist()[:1]) == "a"
    assert _agree(tokenizer, "abc abcabc bc ab c")
    with pytest.raises(UnsupportedTokenizerError, match="words but not results of merges"):
        Tokenizer(changed(backend, vocab=letters, merges=merges, ignore_merges=True)).fast()


@pytest.mark.parametrize(
    ("merges", "refused"),
    [
        ([["ab", "c"], ["a", "b"]], False),
        ([["a", "b"], ["b", "c"], ["bc", "a"], ["b", "ca"]], False),
        ([["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]], False),
        ([["a", "bc"], ["a", "b"], ["b", "c"], ["ab", "c"]], True),
    ],
)
def test_merges_in_unusual_order_are_right_or_refused(
    merges: list[list[str]], refused: bool
) -> None:
    backend = byte_level("gpt2")
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    for left, right in [*merges, ["c", "a"]]:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(changed(backend, vocab=vocabulary, merges=merges))
    if refused:
        with pytest.raises(UnsupportedTokenizerError, match="out of order"):
            tokenizer.fast()
        return
    for number in range(3**7):
        assert _agree(tokenizer, "".join("abc"[number // 3**place % 3] for place in range(7)))


def test_other_kinds_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedTokenizerError, match="normalizer is Replace"):
        Tokenizer(sentencepiece("gemma")).fast()
    spaced = tokenizers.Tokenizer.from_str(byte_level("gpt2").to_str())
    spaced.add_tokens([tokenizers.AddedToken("    ", special=False)])
    with pytest.raises(UnsupportedTokenizerError, match="white space"):
        Tokenizer(spaced).fast()
    with pytest.raises(UnsupportedTokenizerError, match="parts of words"):
        Tokenizer(changed(byte_level("gpt2"), end_of_word_suffix="</w>")).fast()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-each", "llama3"])
def test_both_engines_read_every_character_alike(name: str) -> None:
    """Fails when a new version of Unicode has reached one of the two engines only."""
    tokenizer = _tokenizer(name)
    assigned = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]
    for first in range(0, len(assigned), 256):
        characters = map(chr, assigned[first : first + 256])
        _agree(
            tokenizer,
            "|".join(f"a{c}b {c}{c} 1{c}2  {c} \n{c}  1{c} !{c}\n'{c}" for c in characters),
        )
