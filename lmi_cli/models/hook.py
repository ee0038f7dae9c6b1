"""The one place where a transformers model is changed: its attention function is replaced.

With ``position_ids = 0`` every rotary embedding is the identity, so queries and keys reach the
attention function un-rotated; as no mask function is registered under our name, no mask is built.
Causality and positions then come entirely from the forward pass that is passed in. Modules that do
not look up their attention function get the forward method of an
:class:`~lmi_cli.models.adapters.Adapter` instead.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmi_cli.attention.ranges import QKV
from lmi_cli.engine.language_model import Attention
from lmi_cli.errors import ModelError
from lmi_cli.models.adapters import Adapter
from lmi_cli.models.shape import decoder_layers
from lmi_cli.native import onednn

IMPLEMENTATION = "lmi"
"""Our name in the table of attention functions."""

_OWN_GROWTH = "attn_temperature_tuning"
"""Attribute by which a module of Llama 4 lets queries grow with their place in a pass.

That is their position only where a pass is the whole text; ours grow with the position."""

_open: list[PreTrainedModel] = []  # models whose attention is ours now

# Not an argument of the model, as some modules do not pass arguments on to their attention.
_passing: ContextVar[Attention | None] = ContextVar("passing", default=None)


@contextmanager
def passing(attention: Attention) -> Iterator[None]:
    """Let the layers of a model that is called now attend by ``attention``."""
    token = _passing.set(attention)
    try:
        yield
    finally:
        _passing.reset(token)


def _attend(layer: int, qkv: QKV) -> Tensor:
    attention = _passing.get()
    if attention is None:
        raise RuntimeError("a model was called whose attention is replaced")
    with onednn.attention():
        return attention.attend(layer, qkv)


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer; returns ``[B, Q, H, Dv]`` and None."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    # Compressed attention (MLA) has the rotated components of a head last; ours come first.
    if last := getattr(module, "qk_rope_head_dim", 0):
        query, key = query.roll(last, -1), key.roll(last, -1)
    output = _attend(layer, QKV(query, key, value, scale, softcap, s_aux))
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def installed(model: PreTrainedModel, adapter: Adapter | None = None) -> Iterator[None]:
    """Replace the model's attention by ours; everything is restored at the end.

    Args:
        model: Any model of transformers.
        adapter: For a model that does not look up its attention function.

    Raises:
        ModelError: The model's class does not look up its attention function, so that it cannot be
            replaced.
    """
    before = model.config._attn_implementation
    _open.append(model)
    ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = attention_function
    changes = ExitStack()
    try:
        for module in model.modules():
            if getattr(module, _OWN_GROWTH, False):
                changes.enter_context(_replaced(module, _OWN_GROWTH, False))
        if adapter is None:
            model.set_attn_implementation(IMPLEMENTATION)
        else:
            model.config._attn_implementation_internal = IMPLEMENTATION  # so that none masks
            for name, value in adapter.attributes.items():
                changes.enter_context(_replaced(model.base_model, name, value))
            for index, layer in enumerate(decoder_layers(model)[1]):
                module = getattr(layer, adapter.attention)
                # Accelerate wraps the forward method of a module whose weights it fetches.
                name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
                forward = partial(adapter.forward, module, partial(_attend, index))
                changes.enter_context(_replaced(module, name, forward))
        if model.config._attn_implementation != IMPLEMENTATION:
            raise ModelError(
                f"{type(model).__name__} cannot be used, as its attention cannot be replaced"
            )
        yield
    finally:
        changes.close()
        if adapter is None:
            model.set_attn_implementation(before)
        else:
            model.config._attn_implementation_internal = before
        _open.remove(model)
        if not _open:
            del ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute for a while."""
    own = vars(module)
    there, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if there:
            own[name] = before
        else:
            del own[name]
