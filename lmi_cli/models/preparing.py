"""The first start of a model: what transformers makes of its files, and the self-check."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from lmi_cli.checkpoints.tensors import stored_tensors
from lmi_cli.errors import ModelError
from lmi_cli.models import selfcheck
from lmi_cli.models.blueprint import Blueprint
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.facts import DTYPE_BYTES, ModelFacts, count_weights
from lmi_cli.models.families import Family, native_window
from lmi_cli.models.layer_facts import layers_of
from lmi_cli.models.plain_shape import plain_shape
from lmi_cli.models.prepared import Prepared, PreparedTokenizer
from lmi_cli.models.recurrent import attention_layers
from lmi_cli.models.recurrent_small import state_bytes
from lmi_cli.models.shape import shape_of
from lmi_cli.models.trained_length import trained_length_of

_SENTINEL = "\ue000answer\ue000"
_LARGEST_ID = 2**22
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def prepare(folder: Path) -> Prepared:
    """Read a checked model folder and run the self-check; its weights are not loaded.

    Raises:
        ModelError: The family is not supported, the self-check fails, or a file cannot be read.
    """
    logging.set_verbosity_error()  # what it says about configurations a user cannot change
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a file makes transformers raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{folder}: the configuration cannot be read: {reason}") from error
    family = selfcheck.check(config)
    return Prepared(
        facts_of(folder, config, family), prepare_tokenizer(folder), _blueprint(folder, config)
    )


def facts_of(folder: Path, config: PretrainedConfig, family: Family | None = None) -> ModelFacts:
    """The shape of the model in a checked folder.

    Args:
        folder: Holds the weights, of which only the headers are read.
        config: Its configuration, including the defaults of its family.
        family: What is known of its family; None for what the table says.

    Raises:
        ModelError: The configuration gives no trained length.
    """
    shape = shape_of(config)
    weights, blocks = count_weights(folder)
    length = trained_length_of(config)
    dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return ModelFacts(
        family=config.model_type,
        trained_length=length.tokens,
        native_windows=tuple(native_window(config, at) for at in attention_layers(config)),
        heads=shape.heads,
        kv_heads=shape.key_heads,
        head_dim=shape.head_size,
        value_dim=shape.value_size,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        recurrent_bytes=state_bytes(config),
        dtype=dtype if dtype in DTYPE_BYTES else "float32",
        weights=weights,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        block_bytes=blocks,
        length=length,
        all_layers=layers_of(config, stored_tensors(folder), family),
    )


def prepare_tokenizer(folder: Path) -> PreparedTokenizer:
    """Read the tokenizer of a model folder, and its chat template if it has one.

    Raises:
        ModelError: There is no fast tokenizer, or it cannot be read.
    """
    try:
        return _prepared_tokenizer(folder)
    except ModelError:
        raise
    except Exception as error:  # whatever a file makes transformers and tokenizers raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{folder}: the tokenizer cannot be read: {reason}") from error


def _prepared_tokenizer(folder: Path) -> PreparedTokenizer:
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    _require_small_ids(folder, stored)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    source = loaded.get_chat_template() if loaded.chat_template else None
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: no tokenizer.json, and only fast tokenizers are supported")
    first = loaded("x")["input_ids"][:1]
    adds_bos = loaded.bos_token_id is not None and first == [loaded.bos_token_id]
    special_tokens: dict[str, Any] = dict(loaded.special_tokens_map)
    template = None if source is None else ChatTemplate(source, special_tokens)
    text = backend.to_str()
    prepared = PreparedTokenizer(
        bos_id=loaded.bos_token_id if adds_bos else None,
        stop_ids=tuple(sorted(_stop_ids(loaded, template, _generation(folder)))),
        template=source,
        special_tokens=special_tokens,
        backend=None if _as_stored(stored, text) else text,
    )
    prepared.build(folder)  # which reads it once more, as later starts will
    return prepared


def _require_small_ids(folder: Path, stored: Mapping[str, Any]) -> None:
    """Refuse ids for which no model has embeddings; tokenizers walks through all ids below them."""
    vocabulary = (stored.get("model") or {}).get("vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token["id"] for token in stored.get("added_tokens") or []]
    if (largest := max(ids, default=0)) > _LARGEST_ID:
        raise ModelError(f"{folder}: the tokenizer has the id {largest:,} (limit {_LARGEST_ID:,})")


def _generation(folder: Path) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return None


def _as_stored(stored: Mapping[str, Any], text: str) -> bool:
    """Whether a tokenizer is that of ``tokenizer.json``, apart from what prompts do not use."""
    unused = {"post_processor": None, "truncation": None, "padding": None}
    return bool({**stored, **unused} == json.loads(text) | unused)


def _stop_ids(
    loaded: PreTrainedTokenizerBase,
    template: ChatTemplate | None,
    generation: GenerationConfig | None,
) -> set[int]:
    """The end tokens of the generation config, of the template's turns, and of a text."""
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


def _blueprint(folder: Path, config: PretrainedConfig) -> Blueprint | None:
    """The shape of a model for our own decoder; None if that would not compute the same."""
    found = plain_shape(config)
    if found is None or not found.fits(stored_tensors(folder).keys()):
        return None
    return found if selfcheck.decoder_agrees(config, found) else None
