"""Texts are exact in tokens, nothing hidden is cut, and everything stands where it should."""

import pytest
from chat_model import build_tokenizer
from fast_tokenizers import CORPUS, byte_level
from hypothesis import given, settings
from hypothesis import strategies as st
from text.conftest import metaspace_like, sentencepiece_like

from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.tasks.haystacks import (
    Haystack,
    Noise,
    OtherNeedles,
    OwnText,
    build_text,
    haystack_of,
    require_haystack,
)
from lmi_cli.tasks.needles import FILLER, KEY, NEEDLES, PREFIX, QUESTION, Needle, Quiz
from lmi_cli.text.prompts import ContinuationPrompts
from lmi_cli.text.tokenizer import Tokenizer

TOKENIZERS = {
    "digits": Tokenizer(build_tokenizer()),
    "bos": Tokenizer(build_tokenizer(), bos_id=0),
    "gpt2": Tokenizer(byte_level("gpt2")),
    "prefix": Tokenizer(byte_level("prefix")),
    "llama2": Tokenizer(sentencepiece_like()),
    "metaspace": Tokenizer(metaspace_like()),
}
PROSE = "Emma laughed. “No,” said he; it was late!\n\n" + CORPUS[2] + " Then they went. " * 9
LONG = "word " * 700


def passkey(key: str) -> Quiz:
    return Quiz(PREFIX, (" " + KEY.format(value=key),), QUESTION, (key,))


@given(
    length=st.integers(200, 3000),
    depth=st.floats(0, 100),
    key=st.integers(10_000, 99_999).map(str),
    name=st.sampled_from(["digits", "bos"]),
)
def test_the_paper_s_prompt_is_exact_and_the_key_stands_at_its_depth(
    length: int, depth: float, key: str, name: str
) -> None:
    tokenizer = TOKENIZERS[name]
    filler = " " + FILLER
    built = build_text(
        ContinuationPrompts(tokenizer), length, depth, passkey(key), Noise(tokenizer)
    )
    assert len(tokenizer.prefix) + len(built) + len(tokenizer.encode(QUESTION)) == length
    text = tokenizer.decode(built.encoded.ids.tolist())
    assert text == built.text
    for token in (0, len(built) // 2, len(built) - 1):  # each begins where it says
        start = int(built.encoded.starts[token])
        assert text[start:].startswith(tokenizer.decode([int(built.encoded.ids[token])]))
    needle = " " + KEY.format(value=key)
    assert text.startswith(PREFIX) and text.count(needle) == 1
    before, after = text[len(PREFIX) :].split(needle)
    assert before.endswith(filler) or filler.endswith(before)
    assert after == filler * (len(after) // len(filler))
    filler_tokens = len(tokenizer.encode(filler))
    room = len(tokenizer.encode(before + after))
    if room >= filler_tokens:
        share = 100 * len(tokenizer.encode(before)) / room
        assert abs(share - depth) <= 150 * filler_tokens / room
    if depth == 0:
        assert len(before) < len(filler)
    if depth == 100:
        assert after == ""


def haystack(kind: str, tokenizer: Tokenizer, needle: Needle) -> Haystack:
    if kind in ("prose", "long"):
        return OwnText(tokenizer, kind, PROSE if kind == "prose" else LONG)
    name = None if needle.kind.among_others or needle.kind.key is None else kind
    return haystack_of(tokenizer, needle, 0, name)


@settings(max_examples=60)
@given(
    length=st.integers(1500, 2000),
    depth=st.sampled_from([0.0, 10.0, 33.3, 75.0, 100.0]),
    needle=st.sampled_from([Needle(name, v) for name in NEEDLES for v in (None, "words", "uuids")]),
    kind=st.sampled_from(["noise", "needles", "prose", "long"]),
    name=st.sampled_from(list(TOKENIZERS)),
    trial=st.integers(0, 9),
)
def test_any_prompt_is_exact_and_holds_what_it_hides(
    length: int, depth: float, needle: Needle, kind: str, name: str, trial: int
) -> None:
    tokenizer = TOKENIZERS[name]
    prompts = ContinuationPrompts(tokenizer)
    quiz = needle.quiz(0, length, depth, trial)
    hidden_in = haystack(kind, tokenizer, needle)
    try:
        built = build_text(prompts, length, depth, quiz, hidden_in)
    except UsageError:  # four pairs of uuids, each byte a token
        assert name in ("llama2", "gpt2", "prefix", "metaspace") and needle.value == "uuids"
        return
    tail = prompts.whole().tail(quiz.question)
    assert len(tokenizer.prefix) + len(built) + len(tail) == length
    ids = built.encoded.ids.tolist()
    text = tokenizer.decode(ids)
    if "\ufffd" not in text:  # a character that could not but be cut
        assert text.lstrip() == built.text.lstrip()
    assert built.text.startswith(quiz.introduction)
    ends, total = built.encoded.starts, len(built)
    for needle_text, place in zip(quiz.needles, built.places, strict=True):
        assert built.text.count(needle_text) == 1
        assert built.text[int(ends[place]) :].startswith(needle_text)
        assert tokenizer.decode(ids[: place + 1]) != ""
    intro = len(tokenizer.encode(quiz.introduction))
    around = intro + sum(len(tokenizer.encode(t, continued=True)) for t in quiz.needles)
    room = total - around
    if kind != "long" and room > 600:
        others = sum(
            len(tokenizer.encode(text, continued=True))
            for text, place in zip(quiz.needles, built.places, strict=True)
            if place < built.places[0]
        )
        share = 100 * (built.places[0] - intro - others) / room
        assert abs(share - depth) <= 100 * 330 / room


def test_needles_are_spread_evenly() -> None:
    tokenizer = TOKENIZERS["digits"]
    prompts, needle = ContinuationPrompts(tokenizer), Needle("multi-value")
    for depth, expected in ((0, [0, 25, 50, 75]), (60, [60, 85, 10, 35]), (100, [100, 25, 50, 75])):
        quiz = needle.quiz(0, 20_000, depth, 0)
        built = build_text(prompts, 20_000, depth, quiz, Noise(tokenizer, "\n"))
        shares = [100 * place / len(built) for place in built.places]
        assert shares == pytest.approx(expected, abs=3)


def test_an_own_text_is_repeated_between_sentences() -> None:
    tokenizer = TOKENIZERS["digits"]
    text = "One is here. Two is there.\nThree is nowhere."
    own = OwnText(tokenizer, "x.txt", text)
    begin, pieces = own.cut(200)
    joined = "".join(piece.text for piece in [*begin, *pieces])
    assert joined.endswith(("here.", "there.", "nowhere."))
    assert "One is here. Two is there.\nThree is nowhere.\n\nOne is here." in joined
    assert sum(map(len, [*begin, *pieces])) == 200
    assert all(piece.text.strip() for piece in pieces)
    longest = OwnText(tokenizer, "x.txt", "word " * 3000).cut(3000)[1]
    assert max(len(piece.text) for piece in longest) <= 1000
    assert own.identity != OwnText(tokenizer, "x.txt", text + "!").identity


def test_a_character_is_not_cut_where_that_can_be_avoided() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    own = OwnText(tokenizer, "x.txt", "Ŝanĝo okazas. 中文字符 here. Plain words follow here. " * 9)
    for tokens in range(1, 120):
        begin, pieces = own.cut(tokens)
        ids = [token for piece in [*begin, *pieces] for token in piece.encoded.ids.tolist()]
        assert len(ids) == tokens and "\ufffd" not in tokenizer.decode(ids)


def test_a_length_without_room_names_the_shortest() -> None:
    tokenizer = TOKENIZERS["digits"]
    prompts, noise = ContinuationPrompts(tokenizer), Noise(tokenizer)
    with pytest.raises(UsageError) as caught:
        build_text(prompts, 10, 0, passkey("12345"), noise)
    shortest = int("".join(filter(str.isdigit, caught.value.hint or "")))
    assert build_text(prompts, shortest, 50, passkey("12345"), noise).text.startswith(PREFIX)
    with pytest.raises(UsageError):
        build_text(prompts, shortest - 1, 50, passkey("12345"), noise)


def test_what_cannot_be_combined() -> None:
    tokenizer = TOKENIZERS["digits"]
    for needle, name in (("key-value", "noise"), ("key-value", "x.txt"), ("passkey", "needles")):
        with pytest.raises(UsageError, match="cannot be combined"):
            require_haystack(Needle(needle), name)
    with pytest.raises(NoInputError, match=r"x\.txt has no text"):
        OwnText(tokenizer, "x.txt", " \n")
    assert isinstance(haystack_of(tokenizer, Needle("key-value"), 0, None), OtherNeedles)
    assert isinstance(haystack_of(tokenizer, Needle(), 0, None), Noise)
