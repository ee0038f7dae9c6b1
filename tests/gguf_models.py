"""Tiny random models written as GGUF files, as llama.cpp's converter writes them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIALS = ["<|end|>", "<|begin|>", "<|pad|>", "<|more|>"]
VOCABULARY = 261
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

Weights = dict[str, Tensor]
_NORM_OF_HEAD = re.compile(r"([qk])_layernorm\.norms")


@dataclass(frozen=True)
class Kind:
    """A model to write.

    Attributes:
        architecture: As llama.cpp calls it.
        family: Model type.
        settings: Settings beyond, or other than, the usual ones.
        keys: Keys beyond the usual ones.
        rename: Tensors of a model that gguf's table of names does not know.
        write: What the converter makes of a tensor, by a part of its name.
        epsilon: Name of the key of the norms' epsilon.
    """

    architecture: str
    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    rename: dict[str, str] = field(default_factory=dict)
    write: dict[str, Callable[[Tensor, dict[str, Any]], Any]] = field(default_factory=dict)
    epsilon: str = "attention.layer_norm_rms_epsilon"


def interleaved(heads: str) -> Callable[[Tensor, dict[str, Any]], Tensor]:
    """The halves of each rotary head, in turn."""

    def write(weight: Tensor, sizes: dict[str, Any]) -> Tensor:
        count = sizes[heads]
        halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    return write


def ungrouped(keys: str) -> Callable[[Tensor, dict[str, Any]], Tensor]:
    """All queries, then all keys, then all values."""

    def write(weight: Tensor, sizes: dict[str, Any]) -> Tensor:
        groups = sizes[keys]
        each = sizes["num_attention_heads"] // groups
        size = weight.shape[0] // (groups * (each + 2))
        parts = weight.reshape(groups, each + 2, size, *weight.shape[1:])
        queries, keys_, values = parts[:, :each], parts[:, each], parts[:, each + 1]
        return torch.cat([part.reshape(-1, *weight.shape[1:]) for part in (queries, keys_, values)])

    return write


def plus_one(weight: Tensor, sizes: dict[str, Any]) -> Tensor:
    """Norms of Gemma and Nemotron."""
    return weight + 1


def halves(weight: Tensor, sizes: dict[str, Any]) -> dict[str, Tensor]:
    """Gates and what they multiply, of all experts."""
    gate, up = weight.chunk(2, 1)
    return {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}


def every_other(suffix: str) -> Callable[[Tensor, dict[str, Any]], dict[str, Tensor]]:
    """Likewise where they alternate, in columns."""

    def write(weight: Tensor, sizes: dict[str, Any]) -> dict[str, Tensor]:
        rows = weight.transpose(1, 2) if weight.dim() == 3 else weight
        return {f"ffn_gate_exps.{suffix}": rows[:, ::2], f"ffn_up_exps.{suffix}": rows[:, 1::2]}

    return write


def tiny_model(kind: Kind) -> PreTrainedModel:
    """The model, in float32, whose weights bfloat16 holds exactly, with one added as well."""
    torch.manual_seed(len(kind.architecture))
    ids = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}
    config = AutoConfig.for_model(kind.family, **(_SIZES | ids | kind.settings))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, tensor in model.state_dict().items():
        if "A_log" in name:
            tensor.copy_((torch.rand(tensor.shape) * 2).bfloat16())
            continue
        scale = 0.25 if tensor.dim() == 1 else 1.5 * tensor.shape[-1] ** -0.5
        drawn = torch.randn(tensor.shape) * scale
        if tensor.dim() == 1:
            drawn = (drawn * 64).round().clamp(-100, 100) / 64  # exact after adding one, too
            is_norm = "norm" in name or "ln_" in name
            if is_norm and name.endswith("weight") and plus_one not in kind.write.values():
                drawn = drawn + 1
        tensor.copy_(drawn.bfloat16())
    return model


def write_gguf(
    path: Path, kind: Kind, model: PreTrainedModel, blocks: dict[str, str] | None = None
) -> Path:
    """Write a model, with a vocabulary of bytes.

    Tensors are in float32; those whose names contain a part in ``blocks``, in blocks of its type.
    """
    sizes: dict[str, Any] = _SIZES | kind.settings
    writer = gguf.GGUFWriter(path, kind.architecture)
    writer.add_name("tiny")
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    size = sizes.get("head_dim", hidden // heads)
    keys: dict[str, Any] = {
        "context_length": 64,
        "block_count": sizes["num_hidden_layers"],
        "embedding_length": hidden,
        "feed_forward_length": sizes["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": sizes["num_key_value_heads"],
        "rope.dimension_count": size,
        "rope.freq_base": _rope_base(model),
        kind.epsilon: _epsilon(model),
    } | kind.keys
    if "head_dim" in sizes:
        keys |= {"attention.key_length": size, "attention.value_length": size}
    for name, value in keys.items():
        _add(writer, f"{kind.architecture}.{name}", value)
    tokens = [*SPECIALS, *bytes_to_unicode().values(), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, tensor in _tensors(kind, model, sizes).items():
        numbers = np.ascontiguousarray(tensor.float().numpy())
        of_blocks = next((k for part, k in (blocks or {}).items() if part in name), None)
        if of_blocks is None:
            writer.add_tensor(name, numbers)
        else:
            type_ = gguf.GGMLQuantizationType[of_blocks]
            writer.add_tensor(name, gguf.quants.quantize(numbers, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _epsilon(model: PreTrainedModel) -> float:
    names = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon")
    found = (getattr(model.config, name, None) for name in names)
    return float(next(filter(None, found), 1e-5))


def _rope_base(model: PreTrainedModel) -> float:
    rope = getattr(model.config, "rope_parameters", None) or {}
    return float(rope.get("full_attention", rope).get("rope_theta", 10_000.0))


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tensors(kind: Kind, model: PreTrainedModel, sizes: dict[str, Any]) -> Weights:
    """Weights by their names in a file."""
    number = next(at for at, name in gguf.MODEL_ARCH_NAMES.items() if name == kind.architecture)
    known = gguf.get_tensor_name_map(number, sizes["num_hidden_layers"])
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    found: Weights = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        write = next((w for part, w in kind.write.items() if part in name), None)
        made = tensor if write is None else write(tensor, sizes)
        layer = next((part for part in name.split(".") if part.isdigit()), "")
        inside = name.partition(f".{layer}.")[2]
        if (heads := _NORM_OF_HEAD.search(inside)) is not None:
            there = f"blk.{layer}.attn_{heads[1]}_norm.weight"
            found[there] = torch.cat([*([found[there]] if there in found else []), made[None]])
        elif isinstance(made, dict):
            found |= {f"blk.{layer}.{inner}": each for inner, each in made.items()}
        elif (renamed := kind.rename.get(inside)) is not None:
            found[f"blk.{layer}.{renamed}"] = made
        else:
            names = (name, name.removeprefix("transformer."))  # BLOOM's has both
            there = next(
                filter(None, (known.get_name(n, (".weight", ".bias")) for n in names)), None
            )
            assert there is not None, name
            found[there] = made
    return found
