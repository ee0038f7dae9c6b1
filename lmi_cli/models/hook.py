"""The one place where a transformers model is changed: its attention function is replaced.

With ``position_ids = 0`` every rotary embedding is the identity, so queries and keys reach the
attention function un-rotated; as no mask function is registered under our name, no mask is built.
Causality and positions then come entirely from the forward pass that is passed in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmi_cli.attention.ranges import QKV
from lmi_cli.engine.language_model import Attention
from lmi_cli.errors import ModelError
from lmi_cli.native import onednn

IMPLEMENTATION = "lmi"
"""Our name in the table of attention functions."""

ARGUMENT = "lmi_forward"
"""Keyword argument that passes a forward pass through the model to each layer."""

_open: list[PreTrainedModel] = []  # models whose attention is ours now


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer; returns ``[B, Q, H, Dv]`` and None."""
    attention: Attention | None = arguments.get(ARGUMENT)
    if attention is None:
        raise ModelError(f"{type(module).__name__} does not pass arguments on to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    with onednn.attention():
        output = attention.attend(layer, QKV(query, key, value, scale, softcap))
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Replace the model's attention by ours; everything is restored at the end.

    Raises:
        ModelError: The model's class does not look up its attention function, so that it cannot be
            replaced.
    """
    before = model.config._attn_implementation
    _open.append(model)
    ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = attention_function
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        if model.config._attn_implementation != IMPLEMENTATION:
            raise ModelError(
                f"{type(model).__name__} cannot be used, as its attention cannot be replaced"
            )
        yield
    finally:
        model.set_attn_implementation(before)
        _open.remove(model)
        if not _open:
            del ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
