"""Tiny random models of every family we support, built from configurations alone."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmi_cli.engine.engine import Engine
from lmi_cli.methods.base import Method
from lmi_cli.models.causal_lm import CausalLM

VOCABULARY = 64

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 32,
}


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llama", "rope_parameters": parameters}


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")

_LAYER_TYPES = ["sliding_attention", "full_attention"] * 2
_SLIDING = {"sliding_window": 12, "layer_types": _LAYER_TYPES[:2]}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_COMPRESSED = {
    "num_key_value_heads": 4,
    "head_dim": 4,  # of what is rotated
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
_SIX_HEADS = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 6}
_MPT = {
    "model_type": "mpt",
    "max_seq_len": 128,
    "attn_config": {"softmax_scale": 0.3, "clip_qkv": 2.5, "alibi_bias_max": 8},
}
_FALCON = {"model_type": "falcon", "bias": True}

# What a model needs beyond the sizes above; a name that is not here is a plain model type.
_CHANGES: dict[str, dict[str, Any]] = {
    "llama-mha": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-mqa": {"model_type": "llama", "num_key_value_heads": 1},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-linear": _rope({"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}),
    "llama-llama3": _rope(_LLAMA3),
    "llama-yarn": _rope(_YARN),
    "llama-dynamic": _rope({"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}),
    "afmoe": _SLIDING | _EXPERTS,
    "bloom": {"seq_length": 128},
    "bloom-6-heads": {"model_type": "bloom", "seq_length": 128} | _SIX_HEADS,
    "codegen": {"rotary_dim": 4},
    "cohere": {"logit_scale": 0.25},
    "cohere2": _SLIDING,
    "cohere2_moe": _SLIDING | _EXPERTS,
    "deepseek_v2": _COMPRESSED | {"first_k_dense_replace": 2},
    "deepseek_v3": _COMPRESSED | {"first_k_dense_replace": 2},
    "exaone4": _SLIDING,
    "exaone_moe": _SLIDING | _EXPERTS,
    "falcon": _FALCON,
    "falcon-new": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-alibi": _FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False},
    "gemma2": {"sliding_window": 12, "final_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 12, "num_hidden_layers": 4, "layer_types": _LAYER_TYPES},
    "gpt_neox": {"rotary_pct": 0.5, "num_key_value_heads": 4},
    "gpt_oss": _SLIDING | _EXPERTS | {"rope_parameters": _YARN},
    "gptj": {"rotary_dim": 4},
    "granitemoe": _EXPERTS | {"attention_multiplier": 0.2},
    "granitemoeshared": _EXPERTS,
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.7},
    "llama4_text": _EXPERTS
    | {"no_rope_layers": [1, 0], "moe_layers": [1], "intermediate_size_mlp": 48}
    | {"attention_chunk_size": 13, "floor_scale": 9, "attn_scale": 0.3},
    "minicpm3": _COMPRESSED,
    "ministral": _SLIDING,
    "ministral3": {"rope_parameters": _YARN | {"llama_4_scaling_beta": 0.3}},
    "mistral": {"sliding_window": None},
    "mistral-sliding": {"model_type": "mistral", "sliding_window": 12},
    "mixtral": _EXPERTS,
    "mpt": _MPT,
    "mpt-6-heads": _MPT | _SIX_HEADS,
    "olmo3": _SLIDING,
    "olmoe": _EXPERTS,
    "phi": {"partial_rotary_factor": 0.5},
    "phi3-longrope": {
        "model_type": "phi3",
        "rope_parameters": _LONGROPE,
        "original_max_position_embeddings": 32,
    },
    "phimoe": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"partial_rotary_factor": 0.5},
    "starcoder2": {"sliding_window": None},
}


def tiny_model(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """A random model by its name, with weights large enough to make attention choose."""
    values = _SIZES | {"model_type": name} | _CHANGES.get(name, {}) | changes
    kind = values.pop("model_type")
    if kind == "falcon":  # whose configuration computes it
        del values["head_dim"]
    config = AutoConfig.for_model(kind, **values)
    # Capped scores, and what is joined to them, stock attention can only do in its plain form.
    plain = kind in ("bloom", "gemma2", "gpt_oss", "mpt")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager" if plain else "sdpa",
            experts_implementation="eager",  # others have no float64
        )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.data += 0.1 * noise
        else:
            parameter.data = 1.5 * noise / parameter.shape[-1] ** 0.5
    model = model.to(dtype).eval()
    if kind in ("codegen", "gptj"):  # whose table of float32 would hide differences below 1e-7
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, 4, 2) / 4)
        angles = torch.arange(128)[:, None] * frequencies.double()
        table = torch.cat((angles.sin(), angles.cos()), 1).to(dtype)
        model.transformer.rotary_emb.embed_positions = table
    return model


def random_ids(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count, dtype=np.int32)


def stock_logits(model: PreTrainedModel, ids: NDArray[np.int32]) -> Tensor:
    """Logits ``[n, vocab]`` of the model as it is."""
    with torch.inference_mode(), precisely(model):
        logits: Tensor = model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).logits
    return logits[0]


def our_logits(
    model: PreTrainedModel,
    method: Method,
    ids: NDArray[np.int32],
    chunk: int,
    *,
    origin: int = 0,
    longest: int | None = None,
) -> Tensor:
    """Logits ``[n, vocab]`` by the engine, in passes of ``chunk`` tokens."""
    with CausalLM(model) as lm, precisely(model):
        engine = Engine(lm, method, chunk, longest=longest)
        state = engine.start(origin=origin)
        passes = [engine.forward(state, ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
        return lm.logits(torch.cat(passes))


def trace(model: PreTrainedModel) -> dict[str, Any]:
    """Everything in which a patched model could differ from an untouched one."""
    return {
        "functions": dict(ALL_ATTENTION_FUNCTIONS),
        "own functions": dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        "masks": dict(ALL_MASK_ATTENTION_FUNCTIONS),
        "config": model.config.to_dict(),
        "implementation": model.config._attn_implementation,
        "config attributes": sorted(vars(model.config)),
        "classes": {name: type(module) for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: [len(getattr(module, kind)) for kind in _HOOKS]
            for name, module in model.named_modules()
        },
        "forwards": {name: module.forward for name, module in model.named_modules()},
        "buffers": {name: id(buffer) for name, buffer in model.named_buffers()},
    }


def precisely(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """A float64 model is run in float64 throughout."""
    return float64_transformers() if model.dtype == torch.float64 else nullcontext()


@contextmanager
def float64_transformers() -> Iterator[None]:
    """Makes transformers compute in float64 what it computes in float32 whatever the model's dtype.

    Rotary angles, norms and the plain softmax would otherwise hide differences below 1e-7. Only
    calls made by code of transformers are changed, none of ours. A ``TorchFunctionMode`` would be
    shown every call of any function, and take as long as the models themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in _OF_A_DTYPE.items():
            for name in names:
                patch.setattr(owner, name, _widened(getattr(owner, name)))
        kept = Tensor.float
        patch.setattr(Tensor, "float", lambda x: x.double() if _by_transformers() else kept(x))
        yield


# What transformers gives a dtype to.
_OF_A_DTYPE: dict[Any, tuple[str, ...]] = {
    Tensor: ("to", "type"),
    torch: ("arange", "full", "ones", "softmax", "tensor", "zeros", "zeros_like"),
    nn.functional: ("softmax",),
}


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        for given in (*args, *kwargs.values()):
            if given is torch.float32 and _by_transformers():
                args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
                kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
                break
        return function(*args, **kwargs)

    return call


def _by_transformers() -> bool:
    """Whether it is transformers that has called a function of torch."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].startswith("torch."):
        frame = frame.f_back
    caller = frame.f_globals["__name__"]
    # Frequencies stay as they are: float32 is what a model was trained with.
    return caller.startswith("transformers") and caller != "transformers.modeling_rope_utils"
