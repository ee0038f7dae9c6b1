"""The configuration that a GGUF file describes.

Imports the standard library only.
"""

import math
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.gguf import GgufHeader, GgufTensor, read_numbers, read_tensor
from lmi_cli.checkpoints.gguf_architectures import architecture_of
from lmi_cli.checkpoints.gguf_description import Architecture
from lmi_cli.errors import ModelError

_SLIDING_BEFORE_FULL = {"gemma2": 1, "gemma3": 5, "gpt-oss": 1, "cohere2": 3}
"""How many layers with a window of their own precede each one that sees everything."""
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""The sizes of Gemma that scale scores by the mean head size, hidden size over heads."""
_OPTIONAL = ("attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv")
"""Keys without which a model has no such thing."""
_HINT = "use the model's safetensors form, whose config.json describes it in full"


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
    listed = header.arrays.get(f"{header.architecture}.attention.sliding_window_pattern")
    if listed is not None and listed.length == layers:
        return tuple(window if slides else None for slides in read_numbers(path, listed))
    sliding = _SLIDING_BEFORE_FULL.get(header.architecture)
    if sliding is None:
        raise ModelError(
            f"{path.name} does not say which of its layers have a window of {window} tokens",
            hint="use the model's safetensors form",
        )
    return tuple(window if (at + 1) % (sliding + 1) else None for at in range(layers))


def settings_of(path: Path, header: GgufHeader) -> dict[str, Any]:
    """The settings of the model in a file, for the configuration class of its family.

    Raises:
        ModelError: The architecture is not supported, a key is missing or of another type, or the
            file scales its rotary frequencies in an unsupported way.
        OSError: The file cannot be read.
    """
    try:
        return _settings(path, header, architecture_of(path.name, header))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"{path.name}: a value of its header is not of the kind it should be ({error})"
        ) from error


def _settings(path: Path, header: GgufHeader, architecture: Architecture) -> dict[str, Any]:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{path.name} lacks the tensor token_embd.weight")
    settings: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    for name, source in architecture.settings.items():
        value = source(header) if callable(source) else _value(path, header, source)
        if value is not None:
            settings[name] = value
    layers = _number(header, "block_count")
    windows = native_windows(path, header, layers)
    if header.architecture in _SLIDING_BEFORE_FULL:
        kinds = ["sliding_attention" if window else "full_attention" for window in windows]
        settings["layer_types"] = kinds
    if header.architecture in _LAYERS_OF_27B:
        mean = _number(header, "embedding_length") / max(1, _number(header, "attention.head_count"))
        is_27b = layers == _LAYERS_OF_27B[header.architecture]
        settings["query_pre_attn_scalar"] = mean if is_27b else settings["head_dim"]
    if header.architecture == "lfm2":
        settings |= _short_convolutions(path, header, layers)
    if architecture.turns or architecture.turns_parts:
        rope = settings["rope_parameters"] = _rope(path, header, architecture)
        if rope.get("rope_type") == "longrope":  # Phi 3 keeps it outside as well
            name = "original_max_position_embeddings"
            settings[name] = rope[name]
    return settings


def _number(header: GgufHeader, name: str) -> int:
    value = header.values.get(f"{header.architecture}.{name}", 0)
    return value if isinstance(value, int) else 0


def _head_size(header: GgufHeader) -> int:
    heads = max(1, _number(header, "attention.head_count"))
    return _number(header, "attention.key_length") or _number(header, "embedding_length") // heads


def _value(path: Path, header: GgufHeader, key: str) -> Any:
    """The value of a key; None for one that a model need not have.

    Raises:
        ModelError: It is missing.
    """
    if key == "attention.key_length":
        return _head_size(header)
    value = header.values.get(f"{header.architecture}.{key}")
    if value is None and key not in (*_OPTIONAL, "attention.sliding_window"):
        raise ModelError(f"{path.name}: its header does not give {header.architecture}.{key}")
    return value


def _short_convolutions(path: Path, header: GgufHeader, layers: int) -> dict[str, Any]:
    """Which layers of LFM2 are convolutions: those without key heads."""
    listed = header.arrays.get("lfm2.attention.head_count_kv")
    if listed is None or listed.length != layers:
        raise ModelError(f"{path.name}: its header does not tell convolutions from attention")
    heads = [int(number) for number in read_numbers(path, listed)]
    return {
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if number else "conv" for number in heads],
    }


def _rope(path: Path, header: GgufHeader, architecture: Architecture) -> dict[str, Any]:
    """The rotary parameters of a file.

    Raises:
        ModelError: They are scaled in a way, or cover a part of each head, that is not supported.
    """
    base = header.values.get(f"{header.architecture}.rope.freq_base", 10_000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    size = _head_size(header)
    turned = _number(header, "rope.dimension_count") or size
    if architecture.turns_parts:
        rope["partial_rotary_factor"] = turned / size
        axes = header.arrays.get(f"{header.architecture}.rope.dimension_sections")
        if axes is not None:  # of pictures; for text, all axes have the same position
            sections = [int(number) for number in read_numbers(path, axes) if number]
            rope |= {"mrope_section": sections, "mrope_interleaved": True}
    elif turned != size:
        raise ModelError(
            f"{path.name} rotates {turned} of {size} components of each head, which a model of the "
            f"family {architecture.family} does not",
            hint=_HINT,
        )
    scaling = _scaling(path, header, rope, turned)
    if header.architecture != "gemma3":
        return rope | scaling
    # Its sliding layers keep their own frequencies.
    local = header.values.get("gemma3.rope.freq_base_swa", 10_000.0)
    return {
        "full_attention": rope | scaling,
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


def _scaling(path: Path, header: GgufHeader, rope: dict[str, Any], turned: int) -> dict[str, Any]:
    """What scales the rotary frequencies of a file: nothing, or one of four known ways.

    Raises:
        ModelError: It is another one.
    """
    prefix = f"{header.architecture}.rope.scaling"
    given = {
        name: header.values[f"{prefix}.{name}"]
        for name in (
            "type", "factor", "original_context_length", "attn_factor", "yarn_ext_factor",
            "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_log_multiplier",
        )
        if f"{prefix}.{name}" in header.values
    }  # fmt: skip
    kind, factor = given.pop("type", "none"), given.get("factor")
    original = given.get("original_context_length")
    factors = header.tensors.get("rope_freqs.weight")
    long, short = (header.tensors.get(f"rope_factors_{name}.weight") for name in ("long", "short"))
    if long is not None and short is not None and factors is None and original:
        lists = {"long_factor": _floats(path, long), "short_factor": _floats(path, short)}
        if all(len(values) == turned // 2 for values in lists.values()):
            rope_type = {"rope_type": "longrope", "original_max_position_embeddings": original}
            scale = given.get("attn_factor")
            return rope_type | lists | ({} if scale is None else {"attention_factor": scale})
    elif long is None and short is None:
        if kind == "none" and factors is None:
            return {}
        if kind == "linear" and factors is None and factor:
            return {"rope_type": "linear", "factor": factor}
        if kind == "yarn" and factors is None and factor and original:
            return _yarn(path, header, given)
        if kind == "none" and factors is not None:
            llama3 = _llama3_rope(path, factors, rope)
            if llama3 is not None:
                return llama3
    raise ModelError(
        f"{path.name}: its scaling of rotary frequencies is not supported in GGUF files",
        hint=_HINT,
    )


def _yarn(path: Path, header: GgufHeader, given: dict[str, Any]) -> dict[str, Any]:
    """YaRN (Peng et al. 2023) with its own attention scale.

    Raises:
        ModelError: The scale is another one.
    """
    plain = {
        "attn_factor": 1,
        "yarn_ext_factor": 1,
        "yarn_attn_factor": 1,
        "yarn_log_multiplier": 0,
    }
    for name, value in plain.items():
        if given.get(name, value) != value:
            raise ModelError(
                f"{path.name}: its {name} of {given[name]:g} is not supported in GGUF files",
                hint=_HINT,
            )
    return {
        "rope_type": "yarn",
        "factor": given["factor"],
        "original_max_position_embeddings": given["original_context_length"],
        "beta_fast": given.get("yarn_beta_fast", 32.0),
        "beta_slow": given.get("yarn_beta_slow", 1.0),
        "truncate": header.architecture != "gpt-oss",
    }


def _floats(path: Path, tensor: GgufTensor) -> list[float]:
    return list(read_tensor(path, tensor)) if tensor.elements <= 2**13 else []


def _llama3_rope(path: Path, factors: GgufTensor, rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return Llama 3's parameters if they give exactly the factors stored in the file."""
    stored = _floats(path, factors)
    if not stored:
        return None
    factor, low, high, original = max(stored), 1.0, 4.0, 8192
    if not 1.0 <= factor < 1e6:
        return None
    for index, value in enumerate(stored):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / factors.elements)
        share = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        if not math.isclose(value, 1 / ((1 - share) / factor + share), rel_tol=1e-3):
            return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
