"""Byte-level BPE by tiktoken: the tokens of the model's own tokenizer, several times as fast.

tiktoken merges any two neighbours that together are a token; a tokenizer.json lists the pairs that
may merge. Both make the same merges if (1) pairs are listed in the order of their results and (2)
each token, encoded alone, gives itself. As long as no merge has crossed its ends, a stretch of text
merges as it would alone. So where tiktoken would merge two neighbours into a token, that token,
encoded alone, has reached the same two parts, and to give itself it must merge them too. A token
that fails (2) is never made by the listed pairs and is left out. It remains open whether the two
regular expression engines split text into words alike; :mod:`lmi_cli.text.encoder` compares them
while it reads.

Imports numpy, tiktoken and tokenizers.
"""

import json
import re
import unicodedata
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray

from lmi_cli.text.encoded import Encoded

# The expression of `ByteLevel(use_regex=True)`, and the same after `Digits`, which splits text at
# numbers first.
_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
)
_PLAIN, _EACH_DIGIT, _DIGITS = _WORDS

# Ranges to which every version of Unicode adds letters and digits, so that engines of different
# ages disagree about them.
_GROWING_SCRIPTS = re.compile("[\U00010800-\U0001efff\U0002a6de-\U0010ffff]")


def _alphabet() -> dict[str, int]:
    """Map each visible character of a byte-level vocabulary to the byte that it stands for."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(0x100) if byte not in set(shown))
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


_ALPHABET = _alphabet()


class UnsupportedTokenizerError(ValueError):
    """tiktoken cannot stand in for this tokenizer; the message says why."""


class ByteLevelBPE:
    """A byte-level BPE tokenizer, for text that continues other text.

    Args:
        backend: The model's own tokenizer, without special tokens, templates and prefix spaces.

    Raises:
        UnsupportedTokenizerError: It is of another kind, or tiktoken could differ from it.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        description = json.loads(backend.to_str())
        self._nfc = _needs_nfc(description)
        words = _word_pattern(description["pre_tokenizer"])
        model = _checked_model(description)
        tokens = _merged_in_order(model)
        reached = _reached(backend, description, tokens)
        ranks, self._ids, self._lengths = _ranks(model["vocab"], tokens, reached)
        self._encoding = tiktoken.Encoding(
            "lmi", pat_str=words, mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, text: str) -> Encoded | None:
        """Tokens of a text; None if only the model's own tokenizer gets them right."""
        ascii_only = text.isascii()
        if not ascii_only and (
            _GROWING_SCRIPTS.search(text)
            or (self._nfc and not unicodedata.is_normalized("NFC", text))
        ):
            return None
        try:
            ranks = self._encoding.encode_to_numpy(text, disallowed_special=())
            utf8 = None if ascii_only else np.frombuffer(text.encode(), dtype=np.uint8)
        except ValueError:  # a run too long for its regular expressions, or a lone surrogate
            return None
        ids = self._ids[ranks]
        lengths = self._lengths[ranks]
        ends = np.cumsum(lengths)
        size = len(text) if utf8 is None else len(utf8)
        if (int(ends[-1]) if len(ends) else 0) != size or (len(ids) and int(ids.min()) < 0):
            return None  # text outside all words, or a byte that the vocabulary lacks
        starts = ends - lengths
        if utf8 is not None:  # from bytes to the characters that they belong to
            starts = (np.cumsum((utf8 & 0xC0) != 0x80) - 1)[starts]
        return Encoded(ids, starts)


def _needs_nfc(description: dict[str, Any]) -> bool:
    normalizer = description["normalizer"]
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if normalizer == {"type": "NFC"}:
        return True
    raise UnsupportedTokenizerError(f"its normalizer is {normalizer.get('type')}")


def _word_pattern(pre_tokenizer: Any) -> str:
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _PLAIN
        case [
            {"type": "Digits", "individual_digits": each},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return _EACH_DIGIT if each else _DIGITS
        case [
            {
                "type": "Split",
                "pattern": {"Regex": str(pattern)},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    raise UnsupportedTokenizerError(f"its pre-tokenizer is {', '.join(map(str, kinds))}")


def _checked_model(description: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = description["model"]
    kind = model.get("type")
    if kind != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        raise UnsupportedTokenizerError(f"its model ({kind}) is not BPE with plain merges")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UnsupportedTokenizerError("its tokens mark the parts of words")
    if any(not token["special"] for token in description["added_tokens"]):
        raise UnsupportedTokenizerError("its vocabulary has added tokens for white space")
    return model


def _ranks(
    vocabulary: dict[str, int], merged: list[str], reached: set[str]
) -> tuple[dict[bytes, int], NDArray[np.int32], NDArray[np.int64]]:
    """The merge ranks for tiktoken, and by rank the id (-1: none) and length of each token."""
    byte_of = {ord(character): byte for character, byte in _ALPHABET.items()}
    tokens = [*_ALPHABET, *merged]
    try:
        spelled = [token.translate(byte_of).encode("latin-1") for token in tokens]
    except UnicodeEncodeError:
        raise UnsupportedTokenizerError("a token has characters that are not bytes") from None
    ranks = {
        text: rank
        for rank, (token, text) in enumerate(zip(tokens, spelled, strict=True))
        if token in _ALPHABET or token in reached
    }
    ids = np.array([vocabulary.get(token, -1) for token in tokens], dtype=np.int32)
    return ranks, ids, np.array([len(text) for text in spelled], dtype=np.int64)


def _merged_in_order(model: dict[str, Any]) -> list[str]:
    """The results of the merges, each once."""
    vocabulary = model["vocab"]
    order: dict[str, int] = {}
    last = -1
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        rank = order.setdefault(left + right, len(order))
        if rank < last:
            raise UnsupportedTokenizerError("its merges are out of order")
        last = rank
    if not order.keys() <= vocabulary.keys():
        raise UnsupportedTokenizerError("a merge does not give a token")
    return list(order)


def _reached(
    backend: tokenizers.Tokenizer, description: dict[str, Any], tokens: list[str]
) -> set[str]:
    """Those of ``tokens`` that, encoded alone, give themselves."""
    model = description["model"]
    whole_words = bool(model.get("ignore_merges"))  # a word that is a token is not split
    merging = backend.model
    if whole_words:
        plain = {**description, "model": {**model, "ignore_merges": False}}
        merging = tokenizers.Tokenizer.from_str(json.dumps(plain)).model
    vocabulary = model["vocab"]
    reached = set()
    for token in tokens:
        pieces = merging.tokenize(token)
        if len(pieces) == 1 and pieces[0].id == vocabulary[token]:
            reached.add(token)
    if whole_words:
        added = {token["content"] for token in description["added_tokens"]}
        for token in vocabulary.keys() - reached - added - _ALPHABET.keys():
            if _ALPHABET.keys() >= set(token):
                raise UnsupportedTokenizerError("some tokens are words but not results of merges")
    return reached
