"""Proof, before any real weight is loaded, that we compute what the stock model computes.

A small random model is made from the same configuration and compared twice: with its stock
attention while the text fits the window, and with a dense formula, written independently below,
once the text is longer. A wrong rotary layout, scale or window of a family is an error here and
never a wrong result. That a model has passed is stored with everything else about it; see
:mod:`lmi_cli.models.prepared`.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.language_model import Attention, LanguageModel
from lmi_cli.errors import ModelError
from lmi_cli.methods import LMInfinite, Method
from lmi_cli.models.blueprint import Blueprint
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.families import (
    FAMILIES,
    RECURRENT,
    Family,
    candidates,
    family_of,
    layer_specs,
)
from lmi_cli.models.plain_shape import plain_shape
from lmi_cli.models.recurrent import is_recurrent
from lmi_cli.models.recurrent_small import shrink_recurrent
from lmi_cli.models.shape import shape_of

TOLERANCE = 1e-4
"""Largest accepted difference between logits of order one.

In float64 it is that of the few steps for which transformers uses float32 whatever the dtype. In
float32, attention that is nearly one-hot turns the order of a sum into differences of this size.
"""

_MOST_WEIGHTS = 2**24
"""Real configurations need a few million."""

_SMALL = {
    "vocab_size": 64,
    "intermediate_size": 64,
    "ffn_hidden_size": 64,
    "n_inner": 64,
    "sliding_window": 7,
    "attention_chunk_size": 11,
    "floor_scale": 16,  # queries grow within the few tokens of the check
    "intermediate_size_mlp": 64,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token"), 2),
}

_WITH_EXPERTS = "moe_layers"
"""A list of layers, where other lists have one member for each."""

_TOKENS = 48
_WINDOW = LMInfinite(window=_TOKENS, sinks=3, ceiling=_TOKENS)
_LAMBDA = LMInfinite(window=9, sinks=3, ceiling=13)


def check(config: PretrainedConfig) -> Family:
    """Compare our attention with the stock attention on a small model of ``config``.

    Returns:
        What is known of its family: its row, or what was found by trying where it has none.

    Raises:
        ModelError: They differ, or the model cannot be built.
    """
    found: list[tuple[float, float]] = []
    families = candidates(config)
    for family in families:
        try:
            found.append(differences(config, family))
        except ModelError as error:
            raise ModelError(
                f"{config.model_type}: {error.message.removeprefix(f'{config.model_type}: ')}",
                hint=error.hint,
            ) from error
        except Exception as error:  # whatever an unknown configuration makes transformers raise
            raise ModelError(
                f"{config.model_type}: a small model of this configuration cannot be checked: "
                f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}"
            ) from error
        # Written so that nan, which compares as false, does not pass.
        if all(difference <= TOLERANCE for difference in found[-1]):
            return family
    against_stock, against_formula = min(found)
    raise ModelError(
        f"{config.model_type}: self-check failed, logits differ by {against_stock:.2g} from "
        f"the stock model and by {against_formula:.2g} from the formula (limit {TOLERANCE:g})",
        hint="this configuration is not supported; please report it"
        if len(families) == 1
        else "lmi knows nothing of this family, and neither layout of rotary pairs fits it",
    )


def family_by_trying(config: PretrainedConfig) -> Family:
    """What is known of the family of a configuration that has passed: see :func:`check`.

    Without a row it is tried again, which takes a second.

    Raises:
        ModelError: It does not pass.
    """
    known = (FAMILIES | RECURRENT).get(config.model_type)
    return check(config) if known is None else known


def decoder_agrees(config: PretrainedConfig, blueprint: Blueprint) -> bool:
    """Whether our own decoder and the stock model compute the same, on a small model.

    Args:
        config: The configuration, as transformers understands it.
        blueprint: The shape of the same model.
    """
    model, ids = _small_model_and_ids(config, family_of(config))
    small = plain_shape(model.config)
    if small is None or set(small.frequencies) != set(blueprint.frequencies):
        return False
    # Its inverse frequencies must be those that the stock model uses, to the last bit.
    for layer in layer_specs(model, _TOKENS):
        at = small.rotaries[layer.index]
        used = None if at is None else small.frequencies[at]
        true = None if layer.rotary is None else tuple(layer.rotary.inv_freq.tolist())
        if used != true or layer.native_window != small.windows[layer.index]:
            return False
    with torch.inference_mode():
        stock = model(input_ids=ids, use_cache=False).logits[0]
    decoder = Decoder(small, dict(model.state_dict()))
    ours, beyond = (_logits(decoder, method, ids) for method in (_WINDOW, _LAMBDA))
    with CausalLM(model) as lm:
        expected = _logits(lm, _LAMBDA, ids)
    # Written so that nan, which compares as false, does not pass.
    return _distance(ours, stock) <= TOLERANCE and _distance(beyond, expected) <= TOLERANCE


def differences(config: PretrainedConfig, family: Family | None = None) -> tuple[float, float]:
    """Largest differences of logits: from stock in the window, from the formula beyond it.

    Args:
        config: The configuration.
        family: What is known of its family; None for what the table says.
    """
    family = family or family_of(config)
    model, ids = _small_model_and_ids(config, family)
    with torch.inference_mode():
        stock = model(input_ids=ids, use_cache=False).logits[0]
    with CausalLM(model, family) as lm:
        ours = _logits(lm, _WINDOW, ids)
        ours_beyond = _logits(lm, _LAMBDA, ids)
        dense = _Dense(lm, _LAMBDA)
        beyond = lm.logits(lm.hidden(ids, dense))[0]
    return _distance(ours, stock), _distance(ours_beyond, beyond)


def shrink(config: PretrainedConfig, family: Family) -> PretrainedConfig:
    """The configuration with a small layer of each kind; nothing about positions changes.

    Args:
        config: The configuration.
        family: What is known of its family.
    """
    small, shape = copy.deepcopy(config), shape_of(config)
    if is_recurrent(config):
        return shrink_recurrent(config, shape.heads)
    layers = range(shape.layers)
    listed = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list) and len(value) == shape.layers and name != _WITH_EXPERTS
    }
    experts = getattr(config, _WITH_EXPERTS, None)
    kept = _one_of_each(
        [
            (
                family.has_rotary(config, i),
                i in (experts or ()),
                *(value[i] for value in listed.values()),
            )
            for i in layers
        ]
    )
    small.num_hidden_layers = len(kept)
    for name, value in listed.items():
        setattr(small, name, [value[layer] for layer in kept])
    if experts is not None:
        setattr(small, _WITH_EXPERTS, [at for at, of in enumerate(kept) if of in experts])
    folds = max(1, min(2, shape.heads // shape.key_heads))
    # Slopes are a sequence of another kind where the number of heads is no power of two.
    key_heads = 3 if family.slopes(config) and shape.heads & (shape.heads - 1) else 2
    heads = min(key_heads, shape.key_heads) * folds
    for name in ("num_key_value_heads", "num_kv_heads"):
        if getattr(config, name, None) is not None:
            setattr(small, name, heads // folds)
    small.num_attention_heads = heads
    small.hidden_size = heads * shape.head_size
    for name, size in _SMALL.items():
        if isinstance(getattr(config, name, None), int):
            setattr(small, name, size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    rope = getattr(small, "rope_parameters", None) or {}
    if rope.get("llama_4_scaling_beta"):  # queries grow within the few tokens of the check
        rope["original_max_position_embeddings"] = 16
    return small


def _one_of_each(kinds: list[Any]) -> list[int]:
    """Indices of the first layer of each kind; of two layers if all are of one kind."""
    first: dict[str, int] = {}
    for index, kind in enumerate(kinds):
        first.setdefault(repr(kind), index)
    return list(first.values()) if len(first) > 1 else list(range(min(2, len(kinds))))


def _small_model_and_ids(
    config: PretrainedConfig, family: Family
) -> tuple[PreTrainedModel, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _small_model(config, family)
        return model, torch.randint(0, model.config.vocab_size, (1, _TOKENS))


def _small_model(config: PretrainedConfig, family: Family) -> PreTrainedModel:
    def build() -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shrink(config, family),
            dtype=torch.float64,
            attn_implementation=family.stock,
            experts_implementation="eager",  # others have no float64
            trust_remote_code=False,
        )
        return model.eval()

    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in build().parameters())
    if weights > _MOST_WEIGHTS:
        raise ModelError(
            f"{config.model_type}: two small layers of this configuration would have {weights:,} "
            f"weights (limit {_MOST_WEIGHTS:,})"
        )
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # large enough for attention to be anything but uniform
                parameter.normal_(std=1.5 / math.sqrt(parameter.shape[-1]))
    return model


def _logits(lm: LanguageModel, method: Method, ids: Tensor) -> Tensor:
    engine = Engine(lm, method, chunk=5)
    state = engine.start()
    hidden = [
        engine.forward(state, part) for part in np.split(ids[0].numpy(), range(5, _TOKENS, 5))
    ]
    return lm.logits(torch.cat(hidden))


def _distance(first: Tensor, second: Tensor) -> float:
    scale = max(1.0, float(second.abs().max()))
    return float((first - second).abs().max()) / scale


class _Dense(Attention):
    """LM-Infinite as one matrix per layer, in complex numbers and float64, all tokens at once."""

    def __init__(self, lm: CausalLM, method: LMInfinite) -> None:
        self._layers = lm.layers(method.window)
        self._sizes = (*lm.attention_heads, lm.head_size)
        self._method = method

    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """Attention output ``[B, H, n, Dv]`` of the whole text."""
        query, key, value, scale, softcap, sinks = qkv
        sizes = (query.shape[1], key.shape[1], key.shape[3])
        if sizes != self._sizes:
            raise ModelError(
                f"query heads, key heads and components of a key are {sizes}, not {self._sizes}"
            )
        spec, method = self._layers[layer], self._method
        folds = query.shape[1] // key.shape[1]
        if spec.growth is not None:
            query = query * spec.growth.factors(torch.arange(query.shape[2]))[:, None]
        key, value = (x.repeat_interleave(folds, dim=1).double() for x in (key, value))
        position = torch.arange(query.shape[2])
        distance = position[:, None] - position
        capped = torch.full_like(position, method.ceiling)
        near = _rotated(query, position, spec) @ _rotated(key, position, spec).mT * scale
        far = _rotated(query, capped, spec) @ key.mT * scale
        if softcap is not None:
            near, far = (softcap * (x / softcap).tanh() for x in (near, far))
        if spec.slopes is not None:
            slopes = torch.tensor(spec.slopes, dtype=torch.float64)[:, None, None]
            near, far = near - slopes * distance, far - slopes * method.ceiling
        native = spec.native_window
        window = method.window if native is None else min(native, method.window)
        in_window = (distance >= 0) & (distance < window)
        starts = position % native if native is not None and spec.chunked else position
        is_sink = (starts < method.sinks) & (distance >= method.window)
        if native is not None and native <= method.window:
            is_sink = torch.zeros_like(is_sink)
        if native is not None and spec.chunked:
            together = position[:, None] // native == position // native
            in_window, is_sink = in_window & together, is_sink & together
        scores = torch.where(in_window, near, torch.where(is_sink, far, -math.inf))
        if sinks is not None:  # one more column, which has no value
            column = sinks.double()[None, :, None, None].expand(*scores.shape[:-1], 1)
            scores = torch.cat((scores, column), -1)
        return (scores.softmax(-1)[..., : len(position)] @ value).to(query.dtype)


def _rotated(x: Tensor, position: Tensor, spec: LayerSpec) -> Tensor:
    """``x`` (``[B, H, n, D]``) rotated to ``position`` (``[n]``) by complex multiplication."""
    x = x.double()
    if spec.rotary is None:
        return x
    pairs = len(spec.rotary.inv_freq)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    # To [..., pairs, 2]: neighbours, or one component from each half.
    split = (
        turned.unflatten(-1, (pairs, 2))
        if spec.rotary.interleaved
        else turned.unflatten(-1, (2, pairs)).mT
    )
    angle = position[:, None].double() * spec.rotary.inv_freq.double()
    spun = torch.view_as_complex(split.contiguous()) * torch.polar(torch.ones_like(angle), angle)
    joined = torch.view_as_real(spun)
    joined = joined if spec.rotary.interleaved else joined.mT
    return torch.cat((joined.flatten(-2), rest), dim=-1)
