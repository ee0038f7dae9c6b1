"""Which kinds of models can be read, by what their configuration calls them.

What a model type is, transformers says in its tables of classes. They are read as text, because
importing transformers takes seconds, so an answer fits the installed version. Where a table is not
found, nothing is refused here; transformers and the self-check still refuse, later. Imports the
standard library only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmi_cli.errors import ModelError

LEARNED_POSITIONS = frozenset(
    (
        "bert-generation", "biogpt", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt",
        "opt", "trocr",
    )
)  # fmt: skip
"""Decoders with one learned vector for each position."""

ADDED_POSITIONS = frozenset(("ctrl", "xglm"))
"""Decoders that add sines of the position to what layers read, so that it cannot be reassigned."""

OWN_ATTENTION = frozenset(("cpmant", "gpt_neox_japanese", "reformer", "xlm", "xlnet"))
"""Decoders whose attention is neither looked up by transformers nor known to lmi."""

UNLIKE_TEXT = {
    "blt": "reads bytes in patches, not tokens",
    "moshi": "reads and writes sound besides text",
}
"""Decoders that transformers lists as language models but that do not read a text alone."""

TEXT_PARTS = {
    "gemma3": ("gemma3_text",),
    "llama4": ("llama4_text",),
    "mistral3": ("mistral", "ministral3"),
}
"""Models of images and text whose text part is a model of its own, by its possible types.

Their text is read causally, with the same attention as that of the text model.
"""

_CAUSAL, _MASKED = "FOR_CAUSAL_LM", "FOR_MASKED_LM"
_ENCODER_DECODERS = ("FOR_SEQ_TO_SEQ_CAUSAL_LM", "FOR_SPEECH_SEQ_2_SEQ")
_OF_SEVERAL_INPUTS = ("FOR_IMAGE_TEXT_TO_TEXT", "FOR_MULTIMODAL_LM")
_SOUND = "FOR_TEXT_TO_WAVEFORM"
_ENTRY = re.compile(r'\(\s*"([^"]+)",\s*"(\w+)"')
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

_READABLE = "lmi reads decoder-only language models; docs/models.md lists the families"
_TEXT_PART = (
    "use a model of text alone, or a GGUF file of this one (ORG/NAME:FILE.gguf), which usually has "
    "the text part alone"
)


@dataclass(frozen=True, slots=True)
class _Tables:
    """Classes of transformers by model type, in each of its tables by name."""

    models: Mapping[str, Mapping[str, str]]
    configurations: Mapping[str, str]


def require_readable(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration of what is no decoder-only language model.

    Args:
        path: The file, for messages.
        config: What it contains; its ``model_type`` is a string.

    Raises:
        ModelError: The model has learned positions, is an encoder or an encoder-decoder, reads
            images or sound, or has a type that the installed transformers does not know.
    """
    name, tables = str(config["model_type"]), _tables()
    fault = _own_fault(name, config) or (None if tables is None else _fault(name, config, tables))
    if fault is not None:
        reason, hint = fault
        raise ModelError(f"{path}: {reason}", hint=hint)


def has_class(config: Mapping[str, Any]) -> bool:
    """Whether transformers has classes of its own for those that ``auto_map`` names.

    Then the code that comes with the model is not needed. Classes that are not named after the type
    are another model under a known name.
    """
    name, named, tables = config.get("model_type"), config.get("auto_map"), _tables()
    if not isinstance(name, str) or not isinstance(named, Mapping) or tables is None:
        return False
    if name not in tables.configurations or name not in tables.models[_CAUSAL]:
        return False
    plain = re.sub(r"\W|_", "", name).lower()
    return all(
        isinstance(value, str) and value.rpartition(".")[2].lower().startswith(plain)
        for value in named.values()
    )


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the text part of a model that reads images as well.

    None if it is no such model, or if its text part is no model alone.
    """
    text = config.get("text_config")
    parts = TEXT_PARTS.get(str(config.get("model_type")), ())
    return text if isinstance(text, Mapping) and text.get("model_type") in parts else None


def _own_fault(name: str, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a type by the lists of this module, and what to do."""
    rotary = "use a model with rotary positions or ALiBi"
    if name in LEARNED_POSITIONS:
        return f"{name} has learned absolute positions, which end at the trained length", rotary
    if name in ADDED_POSITIONS:
        return f"{name} adds absolute positions to its embeddings", rotary
    if name in OWN_ATTENTION:
        return f"{name} computes attention in a way of its own, which lmi cannot replace", _READABLE
    if name in UNLIKE_TEXT:
        return f"{name} {UNLIKE_TEXT[name]}", _READABLE
    if config.get("is_encoder_decoder") is True:
        return _encoder_decoder(name)
    return None


def _fault(name: str, config: Mapping[str, Any], tables: _Tables) -> tuple[str, str] | None:
    """The same by the tables of transformers."""

    def is_in(*names: str) -> bool:
        return any(name in tables.models.get(each, ()) for each in names)

    if is_in(*_ENCODER_DECODERS):
        return _encoder_decoder(name)
    if is_in(_MASKED):
        return f"{name} is an encoder, which does not write text", _READABLE
    text = config.get("text_config")
    if (is_in(*_OF_SEVERAL_INPUTS) or text is not None) and text_part(config) is None:
        part = text.get("model_type") if isinstance(text, Mapping) else None
        named = f" ({part[:80]})" if isinstance(part, str) else ""
        reason = (
            f"{name} reads images or sound besides text; lmi does not take its text part{named}"
        )
        return f"{reason} out of it", _TEXT_PART
    if is_in(_SOUND):
        return f"{name} writes sound, not text", _READABLE
    if is_in(_CAUSAL, *_OF_SEVERAL_INPUTS):
        heads = config.get("architectures")
        if isinstance(heads, list) and heads and str(heads[0]).endswith(_CLASSIFIERS):
            return f"{str(heads[0])[:80]} sorts texts into classes and does not write", _READABLE
        return None
    if name in tables.configurations or is_in(*tables.models):
        return f"{name} is no language model", _READABLE
    return (
        f"the model type {name[:80]!r} is not known to transformers {version('transformers')}",
        "a newer version may know it: pip install -U transformers",
    )


def _encoder_decoder(name: str) -> tuple[str, str]:
    return f"{name} is an encoder-decoder, which has to read a text as a whole", _READABLE


@cache
def _tables() -> _Tables | None:
    """The tables of the installed transformers; None if it keeps them in another form."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "models" / "auto"
    try:
        classes = (folder / "modeling_auto.py").read_text(encoding="utf-8")
        configurations = (folder / "auto_mappings.py").read_text(encoding="utf-8")
    except OSError:
        return None
    models = {
        table["name"]: dict(_ENTRY.findall(table["entries"]))
        for table in re.finditer(
            r"^MODEL_(?P<name>\w+)_MAPPING_NAMES = OrderedDict\((?P<entries>.*?)^\)",
            classes,
            re.MULTILINE | re.DOTALL,
        )
    }
    first = configurations.partition("CONFIG_MAPPING_NAMES = OrderedDict(")[2].partition("\n)")[0]
    known = dict(_ENTRY.findall(first))
    return _Tables(models, known) if known and _CAUSAL in models and _MASKED in models else None
