"""Models with recurrent layers: state-space models, linear attention, and hybrids with attention.

Such a layer carries a state of constant size from token to token. It is kept as tensors by name
(``StreamState.recurrent``), which are never written to: a pass starts from copies and leaves new
ones. In a hybrid, transformers asks its cache for the keys of attention layers as well, which are
ours to keep; so that cache returns what it is given and keeps nothing.

Two things of transformers are replaced while a model is open (:func:`installed`): the selective
scan of Mamba (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752, section 3.2), which begins with a state of zeros whenever it reads several tokens,
and its step for one token, which rounds a float64 state to float32.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from lmi_cli.attention.ranges import QKV
from lmi_cli.engine.language_model import Attention
from lmi_cli.models.scan import selective_scan

RWKV = "rwkv"
"""The family whose state is a list of five tensors, where others have a cache of transformers."""


def _everywhere(config: PretrainedConfig, layer: int) -> bool:
    return True


def _nowhere(config: PretrainedConfig, layer: int) -> bool:
    return False


def _if_rope(config: PretrainedConfig, layer: int) -> bool:
    return str(config.position_embedding_type) == "rope"


def _if_mem_rope(config: PretrainedConfig, layer: int) -> bool:
    return bool(config.use_mem_rope)


def _if_theta(config: PretrainedConfig, layer: int) -> bool:
    return (config.rope_parameters or {}).get("rope_theta") is not None


ROTATED: dict[str, Callable[[PretrainedConfig, int], bool]] = {
    "bamba": _everywhere,
    "falcon_h1": _everywhere,
    "falcon_mamba": _nowhere,
    "granitemoehybrid": _if_rope,
    "jamba": _nowhere,
    "lfm2": _everywhere,
    "lfm2_moe": _everywhere,
    "mamba": _nowhere,
    "mamba2": _nowhere,
    "nemotron_h": _nowhere,
    "olmo_hybrid": _if_theta,
    "qwen3_5_moe_text": _everywhere,
    "qwen3_5_text": _everywhere,
    "qwen3_next": _everywhere,
    "rwkv": _nowhere,
    "zamba2": _if_mem_rope,
}
"""The supported families, and whether an attention layer of a configuration is rotated."""

_RWKV_STATE = ("feed_forward", "attention", "numerator", "denominator", "maximum")
_RWKV_LEAST = -1e30
"""The maximum of no exponents, as transformers begins with it."""

_SCAN, _STEP = "mamba_selective_scan", "mamba_selective_state_update"

_reading: ContextVar["StateCache | None"] = ContextVar("reading", default=None)
_open: Counter[str] = Counter()  # modules whose functions are ours, by how many models
_theirs: dict[tuple[str, str], Any] = {}


class StateCache(Cache):  # type: ignore[misc]
    """The states of recurrent layers during one pass, as transformers asks for them.

    Args:
        states: Before the first token, by name; they are copied where they are used.
        devices: Where the state of a layer belongs, if that is not where it is.

    Attributes:
        states: Behind the last token that has been read, in the end.
        attending: The attention layer that was reached last, counted among all layers.
        initial: The recurrent state that was asked for last; None at the beginning of a stream.
    """

    def __init__(self, states: Mapping[str, Tensor], devices: Mapping[int, torch.device]) -> None:
        super().__init__(layers=[])
        self._before, self._devices = states, devices
        self.states: dict[str, Tensor] = {}
        self.attending = -1
        self.initial: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what an attention layer gives; its keys and values are kept elsewhere."""
        self.attending = layer_idx
        return key_states, value_states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The last inputs of a convolution, ``[1, channels, kernel]``, which may be changed."""
        return self._known(f"{layer_idx}.conv.{state_idx}", layer_idx)

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Keep the last inputs of a convolution; return the new ones behind those before them."""
        name = f"{layer_idx}.conv.{state_idx}"
        known = self._known(name, layer_idx)
        kernel = conv_kernel_size or conv_states.shape[-1]
        if known is not None:
            kernel = known.shape[-1]
            conv_states = torch.cat((known, conv_states), -1)
        elif (missing := kernel - conv_states.shape[-1]) > 0:
            conv_states = nn.functional.pad(conv_states, (missing, 0))
        self.states[name] = conv_states[..., -kernel:].contiguous()
        return conv_states

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The state of a layer, which may be changed."""
        self.initial = self._known(f"{layer_idx}.recurrent.{state_idx}", layer_idx)
        return self.initial

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> Tensor:
        """Keep the state of a layer."""
        self.states[f"{layer_idx}.recurrent.{state_idx}"] = recurrent_states
        return recurrent_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Keys that are kept here: none."""
        return 0

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Whether tokens have been read before."""
        return bool(self._before)

    def is_recording_past(self, *_: Any) -> bool:
        """Whether states of earlier tokens are wanted back."""
        return False

    def _known(self, name: str, layer: int) -> Tensor | None:
        if name not in self.states and name in self._before:
            before = self._before[name]
            device = self._devices.get(layer, before.device)
            device = before.device if device.type == "meta" else device
            self.states[name] = before.to(device, copy=True)
        return self.states.get(name)


class NumberedAttention(Attention):
    """Attention whose layers are numbered without those that do not attend.

    Args:
        attention: What computes it.
        places: Number among the attention layers, by number among all.
        cache: Knows which layer has been reached, where a module serves several.
    """

    def __init__(self, attention: Attention, places: Mapping[int, int], cache: StateCache) -> None:
        self._attention, self._places, self._cache = attention, places, cache
        self.position = attention.position

    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """See :meth:`Attention.attend`."""
        return self._attention.attend(self._places[self._cache.attending], qkv)


def is_recurrent(config: PretrainedConfig) -> bool:
    """Whether some layers of a model carry a state."""
    return config.model_type == RWKV or bool(recurrent_layers(config))


def recurrent_layers(config: PretrainedConfig) -> list[int]:
    """Which layers carry a state that transformers keeps in a cache."""
    if config.model_type == RWKV or getattr(config, "layer_types", None) is None:
        return []
    layers = DynamicCache(config=config).layers
    return [
        at for at, each in enumerate(layers) if isinstance(each, LinearAttentionCacheLayerMixin)
    ]


def attention_layers(config: PretrainedConfig) -> list[int]:
    """Which layers attend to earlier tokens, among all layers."""
    if config.model_type == RWKV:
        return []
    if not recurrent_layers(config):
        return list(range(config.num_hidden_layers))
    layers = DynamicCache(config=config).layers
    return [at for at, each in enumerate(layers) if isinstance(each, CacheLayerMixin)]


@contextmanager
def carried(
    model: PreTrainedModel,
    attention: Attention,
    places: Mapping[int, int],
    devices: Mapping[int, torch.device],
) -> Iterator[tuple[dict[str, Any], Attention]]:
    """One pass of a model with recurrent layers, whose state is taken from ``attention``.

    Args:
        model: While :func:`installed` is in force.
        attention: Gets the state behind the new tokens when the pass ends without an error.
        places: See :class:`NumberedAttention`.
        devices: Of each layer.

    Yields:
        Arguments of the model's forward, and the attention for its attention layers. Whoever calls
        the model replaces the argument ``state``, if there is one, by the state that it returns.
    """
    config = model.config
    if config.model_type == RWKV:
        given: dict[str, Any] = {"state": _rwkv_state(model, attention.recurrent)}
        yield given, attention
        attention.recurrent = dict(zip(_RWKV_STATE, given["state"], strict=True))
        return
    cache = StateCache(attention.recurrent, devices)
    token = _reading.set(cache)
    try:
        yield {"cache": cache}, NumberedAttention(attention, places, cache)
    finally:
        _reading.reset(token)
    attention.recurrent = {name: _by_itself(state) for name, state in cache.states.items()}


def _by_itself(state: Tensor) -> Tensor:
    """A state that keeps no larger tensor alive, of which it is a part."""
    whole = state.untyped_storage().nbytes()
    return state if whole == state.nbytes else state.clone(memory_format=torch.contiguous_format)


def _rwkv_state(model: PreTrainedModel, known: Mapping[str, Tensor]) -> list[Tensor]:
    """A copy of a state, or that of no tokens, ``[1, hidden, layers]`` each.

    Sums have the dtype of the model, but at least float32.
    """
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    if known:
        return [known[name].to(device).clone() for name in _RWKV_STATE]
    config, wide = model.config, torch.promote_types(model.dtype, torch.float32)
    shape = (1, config.hidden_size, config.num_hidden_layers)
    state = [
        torch.zeros(shape, dtype=model.dtype if at < 2 else wide, device=device)
        for at in range(len(_RWKV_STATE))
    ]
    state[-1] += _RWKV_LEAST
    return state


def leave_unscaled(model: PreTrainedModel) -> None:
    """Keep an RWKV model from halving its weights layer by layer, so that float16 is not exceeded.

    Weights that are offloaded would not be changed by that, but what they compute would be halved.
    """
    offloaded = any(parameter.is_meta for parameter in model.parameters())
    if model.config.model_type == RWKV and offloaded:
        model.config.rescale_every = 0


@contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Replace the selective scan of the model's family by ours; it is restored at the end."""
    name = type(model).__module__
    module = sys.modules[name]
    ours = {
        each: function
        for each, function in ((_SCAN, _scan), (_STEP, _step))
        if hasattr(module, each)
    }
    if _SCAN not in ours:  # the step of another recurrence has the same name
        ours = {}
    _open[name] += 1
    if _open[name] == 1:
        for each, function in ours.items():
            _theirs[name, each] = theirs = getattr(module, each)
            setattr(module, each, partial(_called, theirs, function))
    try:
        yield
    finally:
        _open[name] -= 1
        if not _open[name]:
            for each in ours:
                setattr(module, each, _theirs.pop((name, each)))


def _called(theirs: Callable[..., Any], ours: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call a function of transformers, or ours where a state of ours is read."""
    return (theirs if _reading.get() is None else ours)(*given, **named)


def _scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803 - transformers gives it by these names
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """Stands for the scan of transformers over several tokens, from the state of the layer."""
    cache = _reading.get()
    output, state = selective_scan(
        hidden_states,
        _step_size(dt, None if delta_bias is None else delta_bias[:, None], delta_softplus),
        A,
        B,
        C,
        None if cache is None else cache.initial,
    )
    output = _gated(output, hidden_states, None if D is None else D[:, None], z)
    return (output, state) if return_last_state else output


def _step(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    **_: Any,
) -> Tensor:
    """Stands for the step of transformers, which changes the state of the layer."""
    output, new = selective_scan(
        hidden_states[..., None],
        _step_size(dt, dt_bias, dt_softplus)[..., None],
        A,
        B[..., None],
        C[..., None],
        state,
    )
    state.copy_(new)
    skip = None if D is None else D.to(torch.promote_types(D.dtype, torch.float32))
    return _gated(output[..., 0], hidden_states, skip, z).to(hidden_states.dtype)


def _step_size(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    if bias is not None:
        dt = dt + bias.to(dt.dtype)
    return nn.functional.softplus(dt) if softplus else dt


def _gated(output: Tensor, hidden: Tensor, skip: Tensor | None, gate: Tensor | None) -> Tensor:
    if skip is not None:
        output = output + hidden * skip
    return output if gate is None else output * nn.functional.silu(gate)
