"""A tokenizer folder as ``text`` needs it: encoder, stop tokens, chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from lmi_cli.errors import ModelError
from lmi_cli.text.tokenizer import Tokenizer

_SENTINEL = "\ue000answer\ue000"
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


class ChatTemplate:
    """The model's own chat template.

    Args:
        tokenizer: As transformers loaded it; its template runs in the sandbox of transformers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Text of a conversation (``role``, ``content``), up to the start of the next answer.

        Args:
            messages: The turns so far.
            answer: Open the assistant's turn at the end.

        Raises:
            ModelError: The template fails.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answer,
            )
        except Exception as error:  # a template is a program of the model's author
            raise ModelError(f"the model's chat template fails: {error}") from error
        return str(text)


def load_tokenizer(
    folder: Path, generation: GenerationConfig | None = None
) -> tuple[Tokenizer, ChatTemplate | None]:
    """Read the tokenizer of a model folder, and its chat template if it has one.

    Args:
        folder: A checked model folder.
        generation: Names the tokens that end an answer.

    Raises:
        ModelError: There is no fast tokenizer, or it cannot be read.
    """
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read: {error}") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: no tokenizer.json, and only fast tokenizers are supported")
    template = ChatTemplate(loaded) if loaded.chat_template else None
    adds_bos = (
        loaded.bos_token_id is not None and loaded("x")["input_ids"][0] == loaded.bos_token_id
    )
    tokenizer = Tokenizer(
        backend,
        bos_id=loaded.bos_token_id if adds_bos else None,
        stop_ids=_stop_ids(loaded, template, generation),
    )
    return tokenizer, template


def _stop_ids(
    loaded: PreTrainedTokenizerBase,
    template: ChatTemplate | None,
    generation: GenerationConfig | None,
) -> set[int]:
    """End tokens of the generation config, the template's turn end, the end of text."""
    named: Any = getattr(generation, "eos_token_id", None)
    stops = set(named if isinstance(named, list) else [named]) | {loaded.eos_token_id}
    added = loaded.get_added_vocab()
    stops |= {added[text] for text in _END_OF_TEXT if text in added}
    if template is not None:
        turn = template.render(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}],
            answer=False,
        )
        after = turn.rpartition(_SENTINEL)[2].lstrip()
        stops |= {identity for text, identity in added.items() if after.startswith(text)}
    stops.discard(None)
    return stops
