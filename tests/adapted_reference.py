"""The reference of families whose attention modules do not look up their function.

The stock modules themselves compute: ALiBi and what a query sees are handed to them as one matrix
of biases and one mask, and Falcon's rotary queries are caught where they meet the keys.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from reference import Lambda, reference_logits, turning
from tiny_models import float64_transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

# Powers of two: slopes of 4 heads, and of 6, for which both families take those of 4 or 8 heads and
# then every other one of 8.
_POWERS = {4: (2, 4, 6, 8), 6: (2, 4, 6, 8, 1, 3)}


def slopes(config: PretrainedConfig) -> Tensor:
    """Of each head, what is taken off a score for a token of distance, ``[H]``."""
    return 2.0 ** -torch.tensor(_POWERS[config.num_attention_heads], dtype=torch.float64)


def dense_logits(model: PreTrainedModel, ids: NDArray[np.int32], method: Lambda) -> Tensor:
    """Logits ``[n, vocab]`` of a model of any family, by the definition of a method."""
    kind = model.config.model_type
    if kind == "falcon":
        return _logits(model, ids, lambda: _falcon(model, method))
    if kind not in ("bloom", "mpt"):
        return reference_logits(model, ids, method)
    near, far = method.masks(len(ids))
    place = torch.arange(len(ids))
    distance = torch.where(far, method.ceiling, place[:, None] - place)
    biases, hidden = -slopes(model.config)[:, None, None] * distance, ~(near | far)
    changes = (
        {"position_bias": biases, "attention_mask": hidden}
        if kind == "mpt"
        else {"alibi": biases, "attention_mask": torch.where(hidden, -torch.inf, 0.0).double()}
    )
    name = {"bloom": "self_attention", "mpt": "attn"}[kind]
    modules = [module for path, module in model.named_modules() if path.endswith(f".{name}")]
    return _logits(model, ids, lambda: _called_with(modules, changes))


def _logits(model: PreTrainedModel, ids: NDArray[np.int32], changed: Callable[[], Any]) -> Tensor:
    with changed(), torch.inference_mode(), float64_transformers():
        tokens = torch.from_numpy(ids).long()[None]
        zeros = {"position_ids": torch.zeros_like(tokens)}
        options = zeros if model.config.model_type == "falcon" else {}
        logits: Tensor = model(input_ids=tokens, use_cache=False, **options).logits
        return logits[0]


def _called_with(modules: list[nn.Module], changes: dict[str, Tensor]) -> Any:
    """Modules of one class called with other arguments."""
    kind = type(modules[0])
    stock = kind.forward

    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        return stock(self, *arguments, **options | changes)

    return patch.object(kind, "forward", forward)


def _falcon(model: PreTrainedModel, method: Lambda) -> Any:
    config = model.config
    frequencies = None if config.alibi else model.transformer.rotary_emb.inv_freq

    def attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        folds = query.shape[1] // key.shape[1]
        return method.attention(
            query[0],
            key[0].repeat_interleave(folds, 0),
            value[0].repeat_interleave(folds, 0),
            turning(frequencies, neighbours=False),
            scale=query.shape[-1] ** -0.5,
            slopes=slopes(config) / query.shape[-1] ** 0.5 if config.alibi else None,
        )[None]

    return patch("torch.nn.functional.scaled_dot_product_attention", attend)
