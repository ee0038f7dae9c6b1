"""Encoding that keeps documents and templates apart, and incremental decoding."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers

from lmi_cli.errors import ModelError
from lmi_cli.text.bytelevel import ByteLevelBPE
from lmi_cli.text.encoded import Encoded


class Tokenizer:
    """A model's tokenizer, with one method for templates and another for all other text.

    Args:
        backend: The model's own tokenizer.
        bos_id: Token that begins every sequence, if the model expects one.
        stop_ids: Tokens that end an answer.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        description = json.loads(_call(backend.to_str))
        self._template = backend
        self._control = np.array(sorted(_control_tokens(description)), dtype=np.int32)
        self._document = _without_control_tokens(description)
        self._continued = _without_prefix_space(description) or self._document
        self._fast: ByteLevelBPE | None = None
        self.bos_id = bos_id
        self.stop_ids = frozenset(stop_ids)

    @property
    def prefix(self) -> list[int]:
        """Ids at the beginning of every sequence: the BOS token, or nothing."""
        return [] if self.bos_id is None else [self.bos_id]

    def encode(self, text: str, *, continued: bool = False) -> Encoded:
        """Encode text that came from outside: no part of it becomes a special token.

        Args:
            text: The text.
            continued: Whether it continues other text; if so, it does not get the space that
                some tokenizers put in front of a text.
        """
        backend = self._continued if continued else self._document
        encoding = _call(backend.encode, text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
        bad = np.flatnonzero(np.isin(ids, self._control))
        if len(bad) == 0:
            return Encoded(ids, starts)
        return self._encode_spelled_out(text, encoding, set(bad.tolist()))

    def fast(self) -> ByteLevelBPE:
        """A faster encoder for continued text; built on first use, in a fraction of a second.

        Raises:
            UnsupportedTokenizerError: There is none for this tokenizer.
        """
        if self._fast is None:
            self._fast = ByteLevelBPE(self._continued)
        return self._fast

    def encode_template(self, text: str) -> list[int]:
        """Encode text of our own or of the chat template, in which special tokens count."""
        return list(_call(self._template.encode, text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, template: bool = False) -> str:
        """Text of ``ids``; broken bytes give U+FFFD, special tokens nothing but in a template."""
        return str(_call(self._template.decode, list(ids), skip_special_tokens=not template))

    def _encode_spelled_out(self, text: str, encoding: Any, bad: set[int]) -> Encoded:
        """Replace each forbidden token by the tokens of its characters, one by one."""
        ids: list[int] = []
        starts: list[int] = []
        for index, (token, (start, end)) in enumerate(
            zip(encoding.ids, encoding.offsets, strict=True)
        ):
            if index not in bad:
                ids.append(token)
                starts.append(start)
                continue
            for offset in range(start, end):
                spelled = _call(self._continued.encode, text[offset], add_special_tokens=False).ids
                ids.extend(spelled)
                starts.extend([offset] * len(spelled))
        return Encoded(np.array(ids, dtype=np.int32), np.array(starts, dtype=np.int64))


def _call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function of the tokenizer's library, which panics on some expressions.

    Raises:
        ModelError: It fails.
    """
    try:
        return function(*arguments, **named)
    except BaseException as error:
        # A panic is no Exception; it stands for an error in the tokenizer's description.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ModelError(f"the tokenizer of the model fails: {error}") from error
        raise


class IncrementalDecoder:
    """Decodes tokens as they come, holding back a character until all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # ids before this index are no longer needed
        self._emitted = 0  # the text of ids before this index has been returned

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is unfinished."""
        self._ids.append(token)
        return self._advance(final=False)

    def flush(self) -> str:
        """The text that was held back; an unfinished character gives U+FFFD."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._emitted])
        after = self._tokenizer.decode(self._ids[self._context :])
        if after.endswith("\ufffd") and not final:
            return ""
        self._context, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]


def _control_tokens(description: dict[str, Any]) -> list[int]:
    """Added tokens that have a meaning: all but runs of white space."""
    return [token["id"] for token in description["added_tokens"] if token["content"].strip()]


def _without_control_tokens(description: dict[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer that reads every added token except white space as plain text.

    Only the template may use such tokens. This includes added tokens that are not flagged special:
    tool and reasoning tags usually are not, although templates use them.

    Args:
        description: The description of the model's own tokenizer; it is modified.
    """
    for token in description["added_tokens"]:
        token["special"] = bool(token["content"].strip())
    description["post_processor"] = None
    description["truncation"] = description["padding"] = None
    return _built(description)


def _without_prefix_space(description: dict[str, Any]) -> tokenizers.Tokenizer | None:
    """A tokenizer that puts no space in front of a text; None if this one puts none there."""
    stages = ("normalizer", "pre_tokenizer")
    changed = {stage: _without_prefix(description[stage]) for stage in stages}
    if all(changed[stage] == description[stage] for stage in stages):
        return None
    return _built(description | changed)


def _built(description: dict[str, Any]) -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer.from_str(json.dumps(description))
    built.encode_special_tokens = True  # that is, as plain text
    return built


def _without_prefix(step: Any) -> Any:
    """A step and those nested in it, without prefix spaces; None if nothing is left of it."""
    if not isinstance(step, dict) or step.get("type") == "Prepend":
        return None
    step = dict(step)
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    if "prepend_scheme" in step:
        step["prepend_scheme"] = "never"
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            step[name] = [kept for inner in step[name] if (kept := _without_prefix(inner))]
    return step
