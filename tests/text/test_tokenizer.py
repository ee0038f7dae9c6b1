"""Documents are data, text survives, and pieces of an answer add up to the answer."""

import json
from itertools import pairwise

import pytest
import tokenizers
from chat_model import SPECIAL, TOOL, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from lmi_cli.text.tokenizer import IncrementalDecoder, Tokenizer

from .conftest import KINDS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SAMPLES = [
    "The grass is green.",
    "  two  spaces\n\n\tand a tab ",
    "naïve déjà vu — “quoted”",
    "日本語の文章。改行\nあり",
    "مرحبا بالعالم שלום",
    "👩‍👩‍👧‍👦 flags 🇫🇷 skin 👍🏽",
    "e\u0301 combining, zero\u200bwidth",
    "\r\n form\x0cfeed \x85 NEL \u2028 separator",
    "",
]


def control_ids(backend: tokenizers.Tokenizer) -> set[int]:
    added = json.loads(backend.to_str())["added_tokens"]
    return {token["id"] for token in added if token["content"].strip()}


@pytest.mark.parametrize("continued", [False, True])
def test_no_text_becomes_a_control_token(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer, continued: bool
) -> None:
    forbidden = control_ids(backend)
    assert forbidden
    names = [backend.id_to_token(number) for number in forbidden]
    texts = ["", " ", "x", *names]
    for text in [a + name + b for name in names for a in texts for b in texts]:
        encoded = tokenizer.encode(text, continued=continued)
        assert not forbidden & set(encoded.ids.tolist())
        if continued:
            assert backend.decode(encoded.ids.tolist()).strip() == text.strip()
        assert all(a <= b for a, b in pairwise(encoded.starts.tolist()))


def test_a_template_may_use_them(tokenizer: Tokenizer, backend: tokenizers.Tokenizer) -> None:
    for number in control_ids(backend):
        assert number in tokenizer.encode_template(backend.id_to_token(number))


def test_a_tool_tag_is_a_control_token_though_it_is_not_flagged_special() -> None:
    backend = build_tokenizer()
    tag = backend.token_to_id(TOOL)
    assert tag in backend.encode(TOOL).ids
    assert tag not in Tokenizer(backend).encode(TOOL).ids


def test_runs_of_white_space_keep_their_tokens() -> None:
    """They stand behind control tokens in the vocabulary, whose ids must not move up to them."""
    backend = build_tokenizer()
    text = "if x:\n        return 5    # done"
    assert Tokenizer(backend).encode(text).ids.tolist() == backend.encode(text).ids


def test_a_control_token_of_one_character_is_spelled_with_bytes() -> None:
    backend = build_tokenizer()
    backend.add_tokens([AddedToken("\u2603", special=False)])
    encoded = Tokenizer(backend).encode("a\u2603b")
    assert backend.token_to_id("\u2603") not in encoded.ids
    assert backend.decode(encoded.ids.tolist()) == "a\u2603b"


@pytest.mark.parametrize("text", SAMPLES)
def test_ordinary_text_is_encoded_as_the_model_was_taught(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer, text: str
) -> None:
    encoded = tokenizer.encode(text)
    assert encoded.ids.tolist() == backend.encode(text, add_special_tokens=False).ids
    # Some decoders take a space in front of a text for their own.
    assert tokenizer.decode(encoded.ids.tolist()).lstrip(" ") == text.lstrip(" ")


@given(text=TEXT)
def test_starts_point_at_the_characters(text: str) -> None:
    tokenizer = Tokenizer(KINDS["smollm"]())
    encoded = tokenizer.encode(text)
    assert len(encoded) == len(encoded.ids)
    starts = encoded.starts.tolist()
    assert starts == sorted(starts)
    for index, begin in enumerate(starts):
        assert 0 <= begin < len(text)
        # A token may hold half a character; those in front of it are complete.
        assert tokenizer.decode(encoded.ids[:index].tolist()).startswith(text[:begin])


def decode_in_steps(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("text", SAMPLES)
def test_pieces_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids.tolist()
    pieces = decode_in_steps(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 412), max_size=30))
def test_pieces_of_any_tokens_add_up(ids: list[int]) -> None:
    """Random tokens: broken bytes, special tokens in between."""
    tokenizer = Tokenizer(KINDS["smollm"]())
    assert "".join(decode_in_steps(tokenizer, ids)) == tokenizer.decode(ids)


def test_special_tokens_give_no_text() -> None:
    backend = build_tokenizer()
    ids = backend.encode(f"a{SPECIAL[1]}b{SPECIAL[2]}").ids
    assert "".join(decode_in_steps(Tokenizer(backend), ids)) == "ab"


def test_the_prefix_is_the_token_that_begins_a_sequence() -> None:
    assert Tokenizer(build_tokenizer()).prefix == []
    assert Tokenizer(build_tokenizer(), bos_id=7, stop_ids=[1, 1]).prefix == [7]
