"""The tokenizer that a GGUF file describes, as the files of a model folder.

A GGUF file holds tokens, their types, and merges or scores; how text is cut before it is merged is
known by name only (`gguf_splits`) or implied by the kind of tokenizer. The library of tokenizers is
imported only when one is made.
"""

import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_cli.checkpoints.gguf import GgufHeader, read_numbers, read_strings
from lmi_cli.checkpoints.gguf_splits import EACH_DIGIT, GPT2_WORDS, SPLITS, WORDS, Split
from lmi_cli.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

_PREFIX = "tokenizer.ggml"
_SPACE = "\u2581"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # types of tokens; 1 is a plain one
# The longest of real vocabularies have 256. There are as many ways to merge a token as it is long.
_MAX_TOKEN_CHARACTERS = 2**11
_MAX_TEMPLATE_CHARACTERS = 2**20  # of real templates, the longest have tens of thousands
_KINDS = ("gpt2", "llama", "gemma4")
_HINT = "use the model's safetensors form, which comes with its own tokenizer.json"
# What ends a turn in files that do not say so: those of converters before 2024.
_ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eom_id|>")
_DEFAULT_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""Ids of a vocabulary of pieces that are not in the file."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a file says of its tokens.

    Attributes:
        kind: ``gpt2`` (bytes and merges), ``llama`` (pieces and scores) or ``gemma4`` (pieces and
            merges).
        tokens: Every token by its id.
        types: The type of each.
        specials: Ids by purpose: ``bos``, ``eos``, ``eot``, ``eom``, ``unknown``, ``padding``.
        begins: Whether a sequence begins with BOS.
    """

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    specials: dict[str, int]
    begins: bool

    @property
    def ends(self) -> list[int]:
        """Ids that end a text; the end of a turn in a chat is one."""
        named = [self.specials.get(name) for name in ("eos", "eot", "eom")]
        if self.specials.get("eot") is None:
            known = {self.tokens[at]: at for at, kind in enumerate(self.types) if kind == _CONTROL}
            named += [known.get(end) for end in _ENDS_OF_TURN]
        return list(dict.fromkeys(end for end in named if end is not None))


def read_vocabulary(path: Path, header: GgufHeader) -> Vocabulary:
    """Read and check the vocabulary of a file.

    Raises:
        ModelError: It is of an unknown kind, or damaged.
        OSError: The file cannot be read.
    """
    kind = header.values.get(f"{_PREFIX}.model")
    if kind not in _KINDS:
        raise ModelError(
            f"{path.name}: its tokenizer is of the kind {str(kind)[:80]!r} (supported: "
            f"{', '.join(_KINDS)})",
            hint=_HINT,
        )
    listed = header.arrays.get(f"{_PREFIX}.tokens")
    if listed is None:
        raise ModelError(f"{path.name} holds no vocabulary", hint=_HINT)
    tokens = tuple(token or f"[EMPTY_{at}]" for at, token in enumerate(read_strings(path, listed)))
    longest = max(range(len(tokens)), key=lambda at: len(tokens[at]), default=0)
    if tokens and len(tokens[longest]) > _MAX_TOKEN_CHARACTERS:
        length = len(tokens[longest])
        raise ModelError(f"{path.name}: its token {longest} is {length:,} characters long")
    if len(set(tokens)) < len(tokens):
        first = {token: at for at, token in reversed(list(enumerate(tokens)))}
        again = next(at for at, token in enumerate(tokens) if first[token] != at)
        earlier = first[tokens[again]]
        raise ModelError(f"{path.name}: its token {again} is the same as token {earlier}")
    types = tuple(map(int, _numbers(path, header, "token_type", len(tokens), 1)))
    specials = dict(_DEFAULT_IDS) if kind == "llama" else {}
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        number = header.values.get(f"{_PREFIX}.{name}_token_id", specials.get(name))
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise ModelError(f"{path.name}: its {name} token, {number}, is none of its tokens")
        specials[name] = number
    default = kind == "llama" or (kind == "gpt2" and _split(path, header).begins)
    begins = bool(header.values.get(f"{_PREFIX}.add_bos_token", default))
    # The template of Gemma 4 writes BOS itself.
    return Vocabulary(kind, tokens, types, specials, begins and kind != "gemma4")


def tokenizer_of(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> "Tokenizer":
    """The tokenizer of a file, which encodes as llama.cpp does.

    Raises:
        ModelError: It splits text in an unknown way, or its merges or scores are damaged.
        OSError: The file cannot be read.
    """
    if vocabulary.kind == "gpt2":
        tokenizer = _byte_level(path, header, vocabulary)
    else:
        tokenizer = _of_pieces(path, header, vocabulary)
    _add_specials(tokenizer, vocabulary)
    return tokenizer


def tokenizer_settings(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer_config.json.

    Raises:
        OSError: The file cannot be read.
    """
    settings: dict[str, Any] = {
        # The class that takes tokenizer.json as it is, whatever the model type.
        "tokenizer_class": "TokenizersBackend",
        "add_bos_token": vocabulary.begins,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    for purpose, name in names.items():
        if (number := vocabulary.specials.get(purpose)) is not None:
            settings[name] = vocabulary.tokens[number]
    template = header.values.get("tokenizer.chat_template")
    if (long := header.arrays.get("tokenizer.chat_template")) is not None:
        (template,) = read_strings(path, long)
        if len(template) > _MAX_TEMPLATE_CHARACTERS:
            raise ModelError(
                f"{path.name}: its chat template is {len(template):,} characters long (at most "
                f"{_MAX_TEMPLATE_CHARACTERS:,} are accepted)"
            )
    return settings if template is None else settings | {"chat_template": template}


def _split(path: Path, header: GgufHeader) -> Split:
    """Refuse a vocabulary for which text would silently be split differently than in training."""
    name = header.values.get(f"{_PREFIX}.pre", "default")
    if name not in SPLITS:
        raise ModelError(
            f"{path.name}: its tokenizer splits text in an unknown way ({str(name)[:80]!r})",
            hint=_HINT,
        )
    return SPLITS[str(name)]


def word_splitter(split: Split) -> "PreTokenizer":
    """What splits text into words by a rule, and spells their bytes in visible characters."""
    from tokenizers import Regex, pre_tokenizers

    *first, last = split.steps if split.steps[-1] == WORDS else (*split.steps, None)
    steps: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if step == EACH_DIGIT
        else pre_tokenizers.Split(Regex(GPT2_WORDS if step == WORDS else step), "isolated")
        for step in first
        if step is not None
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=last is not None))
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def _byte_level(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE

    split = _split(path, header)
    merges = _merges(path, header, vocabulary)
    tokenizer = Tokenizer(BPE(_ids(vocabulary), merges, ignore_merges=split.whole_words))
    tokenizer.pre_tokenizer = word_splitter(split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _of_pieces(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> "Tokenizer":
    """SentencePiece's BPE (Kudo and Richardson 2018).

    Of all neighbours that are a piece together, those of the highest score merge first.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    has_merges = vocabulary.kind == "gemma4"
    merges = _merges(path, header, vocabulary) if has_merges else _implied(path, header, vocabulary)
    unknown = vocabulary.specials.get("unknown")
    tokenizer = Tokenizer(
        BPE(
            _ids(vocabulary),
            merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if not has_merges and header.values.get(f"{_PREFIX}.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        steps.append(decoders.Strip(content=" ", left=1))
    else:
        tokenizer.normalizer = spaces
    if has_merges:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {token: at for at, token in enumerate(vocabulary.tokens)}


def _numbers(
    path: Path, header: GgufHeader, name: str, count: int, default: float
) -> tuple[float, ...]:
    array = header.arrays.get(f"{_PREFIX}.{name}")
    if array is None:
        return (default,) * count
    if array.length < count:
        raise ModelError(
            f"{path.name}: its vocabulary has {count:,} tokens but {array.length:,} {name}s"
        )
    return read_numbers(path, array)[:count]


def _merges(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs of tokens that merge, first those that merge first.

    Raises:
        ModelError: A merge is not one of two tokens to a third.
    """
    array = header.arrays.get(f"{_PREFIX}.merges")
    if array is None:
        raise ModelError(f"{path.name}: its vocabulary has no merges", hint=_HINT)
    known = set(vocabulary.tokens)
    pairs = []
    for number, merge in enumerate(read_strings(path, array)):
        at = merge.find(" ", 1)
        pair = merge[:at], merge[at + 1 :]
        if at < 0 or not known.issuperset((*pair, "".join(pair))):
            raise ModelError(f"{path.name}: its merge {number} is not one of two of its tokens")
        pairs.append(pair)
    return pairs


def _implied(path: Path, header: GgufHeader, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The merges that scores imply: every way to make a token of two others, best token first."""
    if f"{_PREFIX}.scores" not in header.arrays:
        raise ModelError(f"{path.name}: its vocabulary has no scores", hint=_HINT)
    count = len(vocabulary.tokens)
    scores = _numbers(path, header, "scores", count, 0.0)
    if any(map(math.isnan, scores)):
        raise ModelError(f"{path.name}: a score of its vocabulary is not a number")
    # Text is never merged to a token that has a meaning of its own.
    plain = [
        at
        for at, kind in enumerate(vocabulary.types)
        if kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE) and len(vocabulary.tokens[at]) > 1
    ]
    known = set(vocabulary.tokens)
    best = sorted(plain, key=lambda at: -scores[at])
    pieces = (vocabulary.tokens[at] for at in best)
    ways = (((piece[:at], piece[at:]) for at in range(1, len(piece))) for piece in pieces)
    return [pair for pair in chain.from_iterable(ways) if known.issuperset(pair)]


def _add_specials(tokenizer: "Tokenizer", vocabulary: Vocabulary) -> None:
    """Tokens that are found in text as they are, before it is split."""
    from tokenizers import AddedToken

    def typed(*kinds: int) -> list[AddedToken]:
        return [
            AddedToken(token, normalized=False, special=_USER_DEFINED not in kinds)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in kinds
        ]

    tokenizer.add_special_tokens(typed(_UNKNOWN, _CONTROL))
    tokenizer.add_tokens(typed(_USER_DEFINED))
