"""Tokenizers of the kinds that models come with."""

import pytest
import tokenizers
from chat_model import TEXTS, build_tokenizer
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from lmi_cli.text.tokenizer import Tokenizer

GPT2_LIKE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama3_like() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT2_LIKE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def sentencepiece_like() -> tokenizers.Tokenizer:
    """As Llama 2 and Mistral have it: a space in front of the text, bytes as a last resort."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefghijklmnopqrstuvwxyz.", "\u2581t", "\u2581th", "\u2581the", "in"]
    merges = [("\u2581", "t"), ("\u2581t", "h"), ("\u2581th", "e"), ("i", "n")]
    backend = tokenizers.Tokenizer(
        BPE(
            {piece: number for number, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in pieces[:3]])
    return backend


def metaspace_like() -> tokenizers.Tokenizer:
    backend = sentencepiece_like()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


KINDS = {
    "smollm": build_tokenizer,
    "llama3": llama3_like,
    "llama2": sentencepiece_like,
    "metaspace": metaspace_like,
}


@pytest.fixture(params=list(KINDS), scope="session")
def backend(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    """The model's own tokenizer, which knows special tokens."""
    return KINDS[request.param]()


@pytest.fixture(scope="session")
def tokenizer(backend: tokenizers.Tokenizer) -> Tokenizer:
    """Ours around it."""
    return Tokenizer(backend)
