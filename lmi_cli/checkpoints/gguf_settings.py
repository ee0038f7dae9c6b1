"""Settings of a model that a GGUF file gives or implies, and transformers does not read from it.

Imports the standard library only.
"""

import math
import struct
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.gguf import GgufHeader, GgufTensor
from lmi_cli.errors import ModelError

_SLIDING_BEFORE_FULL = {"gemma2": 1, "gemma3": 5}
"""How many layers with a window of their own precede each one that sees everything."""
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""The sizes of Gemma that scale scores by the mean head size, hidden size over heads."""


def native_windows(path: Path, header: GgufHeader, layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer, in tokens; None for one that sees everything.

    Raises:
        ModelError: Which layers have a window is known for some architectures only.
    """
    window = _number(header, "attention.sliding_window")
    if not window:
        return (None,) * layers
    if header.architecture == "phi3":
        return (window,) * layers
    sliding = _SLIDING_BEFORE_FULL.get(header.architecture)
    if sliding is None:
        raise ModelError(
            f"{path.name}: which of its layers have a window of {window} tokens is not in the file",
            hint="use the model's safetensors form",
        )
    return tuple(window if (at + 1) % (sliding + 1) else None for at in range(layers))


def unread_settings(path: Path, header: GgufHeader, rope: dict[str, Any]) -> dict[str, Any]:
    """What has to be added to the settings that transformers 5.23 reads from a file.

    Args:
        path: The file.
        header: Its header.
        rope: The rotary parameters that transformers read.

    Raises:
        ModelError: The file scales its rotary frequencies in an unsupported way.
    """
    added: dict[str, Any] = {}
    scaled = _scaled_rope(path, header, rope)
    if scaled is not None:
        added["rope_parameters"] = scaled
    if header.architecture == "phi3" and (window := _number(header, "attention.sliding_window")):
        added["sliding_window"] = window
    if _number(header, "block_count") == _LAYERS_OF_27B.get(header.architecture):
        heads = _number(header, "attention.head_count")
        added["query_pre_attn_scalar"] = _number(header, "embedding_length") / max(1, heads)
    return added


def _number(header: GgufHeader, name: str) -> int:
    value = header.values.get(f"{header.architecture}.{name}", 0)
    return value if isinstance(value, int) else 0


def _scaled_rope(path: Path, header: GgufHeader, rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rotary parameters of a model with scaled frequencies, or None if they are plain.

    transformers 5.23 reads the base frequency of a GGUF file but not its scaling, which would give
    a model that runs but is wrong. Linear scaling and that of Llama 3.1 are added here.

    Raises:
        ModelError: The file has another kind of scaling.
    """
    prefix = f"{header.architecture}.rope.scaling"
    kind = header.values.get(f"{prefix}.type", "none")
    factor = header.values.get(f"{prefix}.factor")
    factors = header.tensors.get("rope_freqs.weight")
    if rope.get("rope_type", "default") != "default":
        return None  # transformers read it
    if kind == "none" and factors is None and "rope_factors_long.weight" not in header.tensors:
        return None
    nested = any(isinstance(value, dict) for value in rope.values())  # by kind of layer
    if kind == "linear" and factors is None and isinstance(factor, float):
        linear = {"rope_type": "linear", "factor": factor}
        if not nested:
            return rope | linear
        if header.architecture == "gemma3":  # whose sliding layers keep their frequencies
            return rope | {"full_attention": rope["full_attention"] | linear}
    if kind == "none" and factors is not None and not nested:
        llama3 = _llama3_rope(path, factors, rope)
        if llama3 is not None:
            return llama3
    raise ModelError(
        f"{path.name}: its scaling of rotary frequencies is not supported in GGUF files",
        hint="use the model's safetensors form, whose config.json describes it in full",
    )


def _llama3_rope(path: Path, factors: GgufTensor, rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return Llama 3's parameters if they give exactly the factors stored in the file."""
    if factors.kind != 0 or factors.elements > 2**13:
        return None
    with path.open("rb") as file:
        file.seek(factors.start)
        stored = struct.unpack(f"<{factors.elements}f", file.read(4 * factors.elements))
    factor, low, high, original = max(stored), 1.0, 4.0, 8192
    if not 1.0 <= factor < 1e6:
        return None
    for index, value in enumerate(stored):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / factors.elements)
        share = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        if not math.isclose(value, 1 / ((1 - share) / factor + share), rel_tol=1e-3):
            return None
    return rope | {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
