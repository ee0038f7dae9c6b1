"""Small tokenizers of every kind, trained here, that texts are cut and encoded with."""

import json
from functools import cache
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram

PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife.\nHowever little known the feelings or views of such a man may be "
    "on his first entering a neighbourhood, this truth is so well fixed in the minds of the "
    "surrounding families.\n\n"
)
CODE = (
    "def area(width: int, height: int) -> int:\n    if width < 0:\n        raise ValueError\n"
    "    return width * height  # 12345 67\n\n\n"
)
SCRIPTS = "naïve café 中文字符没有空格。日本語 العربية 한국어 👍🏽 e\u0301 2026年 ½ \u00a0x\r\n"
CORPUS = (PROSE * 3, CODE * 3, SCRIPTS * 3, "aaaa bbbb    cccc \n\n\n 1111 2222 <tool> don't I'll")

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated", False),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )


def _digits(*, each: bool) -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=each), pre_tokenizers.ByteLevel(False)]
    )


BYTE_LEVEL: dict[str, tuple[Any, Any]] = {
    "gpt2": (None, pre_tokenizers.ByteLevel(False)),
    "prefix": (None, pre_tokenizers.ByteLevel(True)),
    "digits-each": (None, _digits(each=True)),
    "digits-runs": (None, _digits(each=False)),
    "llama3": (None, _split(LLAMA3)),
    "nfc": (normalizers.NFC(), _split(LLAMA3)),
}


@cache
def byte_level(name: str, size: int = 700) -> tokenizers.Tokenizer:
    """A byte-level BPE."""
    normalizer, pre_tokenizer = BYTE_LEVEL[name]
    backend = tokenizers.Tokenizer(BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def changed(backend: tokenizers.Tokenizer, **model: Any) -> tokenizers.Tokenizer:
    """A copy whose model's description has other values."""
    description = json.loads(backend.to_str())
    description["model"] |= model
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def every_merge(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy in the form of Llama 3: words are looked up whole, each token has all its merges."""
    description = json.loads(backend.to_str())["model"]
    order = {left + right: rank for rank, (left, right) in enumerate(description["merges"])}
    merges = [
        [token[:at], token[at:]]
        for token in order
        for at in range(1, len(token))
        if token[:at] in description["vocab"] and token[at:] in description["vocab"]
    ]
    return changed(backend, merges=merges, ignore_merges=True)


_LLAMA2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
SENTENCEPIECE: dict[str, tuple[Any, Any]] = {
    # One word from end to end, and a space in front (Llama 2).
    "llama2": (_LLAMA2, None),
    # The same without the space (Gemma).
    "gemma": (normalizers.Replace(" ", "▁"), None),
    "metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "mistral": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True)),
}


@cache
def sentencepiece(name: str) -> tokenizers.Tokenizer:
    """A BPE over characters, with bytes for those that it lacks."""
    normalizer, pre_tokenizer = SENTENCEPIECE[name]
    backend = tokenizers.Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer is not None:
        backend.normalizer = normalizer
    # Trained on words with spaces around, line feeds included, so that merges cross words.
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[▁ ]+\S+\n*|\S+\n*"), "isolated", False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    description = json.loads(backend.to_str())
    description["pre_tokenizer"] = None
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 3]
    backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return backend


@cache
def unigram() -> tokenizers.Tokenizer:
    """A unigram model, whose words are chosen from both ends."""
    backend = tokenizers.Tokenizer(Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend
