"""Rotary frequencies that a GGUF file scales, which transformers does not read from it.

Imports the standard library only.
"""

import math
import struct
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.gguf import GgufHeader, GgufTensor
from lmi_cli.errors import ModelError


def scaled_rope(path: Path, header: GgufHeader, rope: dict[str, Any]) -> dict[str, Any] | None:
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
    if kind == "linear" and factors is None and isinstance(factor, float) and not nested:
        return rope | {"rope_type": "linear", "factor": factor}
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
