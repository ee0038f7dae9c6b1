"""The length of text that a model was trained for, as its configuration tells it.

The trained length is the longest text for which its authors published the model: the largest length
that the configuration states, if the rotary frequencies are those of that length. Where they are
scaled, two lengths are meant, and this decides between them:

* The stated length is more than the original context, and the scaling reaches no further: the
  authors extended the model by training, and the stated length counts (Llama 3.1, Phi 3 with
  longrope, DeepSeek, gpt-oss).
* The scaling reaches further than the stated length, or nothing is stated beyond the original
  context: it was added to a model that was trained for less, and the original context counts (the
  YaRN that Qwen's users are told to add). So it does with dynamic scaling, which nobody trains.

Imports the standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmi_cli.errors import ModelError

_STATED = (
    "max_position_embeddings",
    "n_positions",  # GPT-J
    "max_seq_len",  # MPT
    "seq_length",  # BLOOM
    "context_length",  # RWKV
    "model_max_length",  # Command R, which states the longer length here
    "max_sequence_length",  # LLaMA and Vicuna
)

_PUBLISHED = {
    "bloom": (2048, "BigScience Workshop 2022, arXiv 2211.05100"),
    "falcon": (2048, "Almazrouei et al. 2023, arXiv 2311.16867"),
    "falcon_mamba": (8192, "Zuo et al. 2024, arXiv 2410.05355"),
    "mamba": (2048, "Gu and Dao 2023, arXiv 2312.00752"),
    "mamba2": (2048, "Dao and Gu 2024, arXiv 2405.21060"),
    "recurrent_gemma": (8192, "Botev et al. 2024, arXiv 2404.07839"),
    "xlstm": (8192, "Beck et al. 2025, arXiv 2503.13427"),
}
"""Trained lengths, in tokens, of families whose configurations may state none, and sources."""

_UNSCALED = (None, "default", "proportional", "mrope")
_NEVER_TRAINED = "dynamic"
_MADE_BY_TRAINING = ("llama3", "longrope")
"""Scalings that exist only as part of a longer training, whatever their factor is."""

_LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class TrainedLength:
    """How long the texts were that a model was made for. All lengths are in tokens.

    Attributes:
        tokens: The trained length.
        original: The context before rotary frequencies were scaled; None if they are not.
        scaling: Kind of scaling, such as ``yarn``; None for none.
        reach: The length that the scaling is meant for, if that is beyond the trained length.
        source: Where the trained length is published, if the configuration does not state it.
    """

    tokens: int
    original: int | None = None
    scaling: str | None = None
    reach: int | None = None
    source: str | None = None

    def __str__(self) -> str:
        """As in ``131,072 tokens (original context 4,096, yarn)``."""
        notes = []
        if self.scaling is not None:
            if self.original is not None and self.original < self.tokens:
                notes.append(f"original context {self.original:,}")
            notes.append(self.scaling)
            if self.reach is not None:
                notes[-1] += f" to {self.reach:,}, without training"
        if self.source is not None:
            notes.append(f"by {self.source}")
        return f"{self.tokens:,} tokens" + (f" ({', '.join(notes)})" if notes else "")


def trained_length_of(config: Any) -> TrainedLength:
    """The trained length of a model; the rule is that of this module.

    Args:
        config: A configuration, as an object of transformers or as the mapping of ``config.json``,
            old names of rotary parameters included. Of a model of several kinds of input, the text
            model counts.

    Raises:
        ModelError: The configuration gives none.
    """
    family = _get(config, "model_type") or "this model"
    text = _get(config, "text_config")
    config = config if text is None else text
    stated = max((_length(_get(config, name)) or 0 for name in _STATED), default=0)
    if not stated:
        published = _PUBLISHED.get(str(_get(config, "model_type") or family))
        if published is None:
            raise ModelError(f"{family}: the configuration gives no trained length")
        return TrainedLength(published[0], source=published[1])
    rope = _scaled(config)
    if rope is None:
        return TrainedLength(stated)
    kind = str(rope.get("rope_type") or rope.get("type"))
    kind = "longrope" if kind == "su" else kind
    original = (
        _length(rope.get("original_max_position_embeddings"))
        or _length(_get(config, "original_max_position_embeddings"))
        or _length(_get(config, "initial_context_length"))
    )
    factor = rope.get("factor")
    if not isinstance(factor, (int, float)) or not 1 < factor < _LARGEST:
        factor = 1.0
    promised = round((original or stated) * factor)
    if kind == _NEVER_TRAINED:
        tokens = min(original or stated, stated)
    elif original is None or (kind in _MADE_BY_TRAINING and stated > original):
        return TrainedLength(stated, original, kind)
    elif rope.get("finetuned") is True:  # as YaRN's authors mark what they trained
        tokens = max(stated, promised)
    else:
        tokens = stated if stated >= promised else original
    longest = max(stated, promised)
    return TrainedLength(tokens, original, kind, longest if longest > tokens else None)


def trained_length(config: Any) -> int:
    """The length alone, in tokens; see :func:`trained_length_of`.

    Raises:
        ModelError: The configuration gives none.
    """
    return trained_length_of(config).tokens


def _scaled(config: Any) -> Mapping[str, Any] | None:
    """The rotary parameters that scale frequencies; None if none do.

    They may be given for each kind of layer, or, in old files, under another name.
    """
    for name in ("rope_parameters", "rope_scaling"):
        rope = _get(config, name)
        if not isinstance(rope, Mapping):
            continue
        for each in (rope, *(value for value in rope.values() if isinstance(value, Mapping))):
            if (each.get("rope_type") or each.get("type")) not in _UNSCALED:
                return each
    return None


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _length(value: Any) -> int | None:
    """A length in tokens; None for what is none."""
    return value if type(value) is int and 1 <= value < _LARGEST else None
