"""A decoder of the Llama kind, computed by ourselves: no module, no mask, no copy between layers.

For Llama, Mistral, Qwen 2 and Qwen 3 on the CPU (see :mod:`lmi_cli.models.prepared`), where a fifth
of the time of reading and two thirds of that of a token went into the many small operations of a
general library. It rounds where transformers rounds. With the library in C each layer is a few
calls, without it a few more of torch. Imports torch, not transformers.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.rope import Rotary
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.models import cpu
from lmi_cli.models.blueprint import Blueprint
from lmi_cli.models.language_model import LanguageModel
from lmi_cli.native import layers as native
from lmi_cli.native.step import LayerWeights, Linear, Stepper


class Decoder(LanguageModel):
    """A model of a known shape from its weights.

    Args:
        blueprint: The shape.
        weights: By the names that transformers gives them, all in one dtype, on the CPU.

    Raises:
        KeyError: A weight is missing.
    """

    computed_by = "lmi"

    def __init__(self, blueprint: Blueprint, weights: Mapping[str, Tensor]) -> None:
        self._shape = blueprint
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self._head = Linear(self._embedding if blueprint.tied else weights["lm_head.weight"])
        self._layers = [_layer(weights, index) for index in range(blueprint.layers)]
        self._stepper: Stepper | None = None
        self._scale = blueprint.head_size**-0.5
        self.family = blueprint.family
        self.trained_length = blueprint.trained_length
        self.vocab_size = len(self._embedding)
        self.attention_heads = (blueprint.heads, blueprint.key_heads)
        self.head_size = blueprint.head_size
        self.dtype = self._embedding.dtype
        self.device = self._embedding.device
        self.device_map = {"": str(self.device)}

    def layers(self, horizon: int) -> list[LayerSpec]:
        """All layers alike; the frequencies are the same for every ``horizon``."""
        rotary = Rotary(torch.tensor(self._shape.inv_freq))
        return [LayerSpec(index, rotary) for index in range(self._shape.layers)]

    def layer_device(self, index: int) -> torch.device:
        """The CPU."""
        return self.device

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights."""
        tensors = [tensor for layer in self._layers for tensor in layer.tensors]
        tensors += [self._embedding, self._norm]
        if self._head.weight is not self._embedding:
            tensors.append(self._head.weight)
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def linear_weights(self) -> tuple[int, int]:
        """Number of weights in the linear layers, and in the output projection behind them."""
        inner = sum(linear.weight.numel() for layer in self._layers for linear in layer.linears)
        return inner, self._head.weight.numel()

    @torch.inference_mode()
    def hidden(self, ids: Tensor, forward: ForwardPass) -> Tensor:
        """Final hidden states ``[B, n, hidden]`` of new tokens ``ids`` (int64, ``[B, n]``)."""
        x = functional.embedding(ids, self._embedding)
        if ids.numel() == 1 and self._stepped(x, forward):
            return self._add_norm(x, None, self._norm)
        delta: Tensor | None = None
        with cpu.linear_layers(ids.numel(), x.device):
            for index, layer in enumerate(self._layers):
                normed = self._add_norm(x, delta, layer.norm_attention)
                qkv = functional.linear(normed, layer.qkv.weight, layer.qkv.bias)
                with cpu.attention():
                    attended = self._attend(index, layer, qkv, forward)
                delta = functional.linear(attended, layer.output.weight, layer.output.bias)
                normed = self._add_norm(x, delta, layer.norm_mlp)
                inner = functional.linear(normed, layer.gate_up.weight, layer.gate_up.bias)
                delta = functional.linear(_gated(inner), layer.down.weight, layer.down.bias)
        return self._add_norm(x, delta, self._norm)

    @torch.inference_mode()
    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[..., hidden]``), at most ``rows`` tokens at a time."""
        for part in hidden.reshape(-1, hidden.shape[-1]).split(rows):
            if len(part) == 1 and native.can(part, self._head.weight):
                yield self._head.one(part)
                continue
            with cpu.linear_layers(len(part), part.device):
                logits = functional.linear(part, self._head.weight)
            yield logits if logits.dtype == torch.float64 else logits.float()

    def _stepped(self, x: Tensor, forward: ForwardPass) -> bool:
        """Take one token (``[1, 1, hidden]``) through all layers in C, if that can be done."""
        if not native.can(x, *(layer.down.weight for layer in self._layers[:1])):
            return False
        views = forward.views(self._scale, self.dtype)
        if views is None:
            return False
        if self._stepper is None:
            self._stepper = Stepper(
                self._layers,
                self.attention_heads,
                epsilon=self._shape.epsilon,
                scale=self._scale,
            )
        self._stepper.step(x, views, forward.position)
        return True

    def _attend(self, index: int, layer: LayerWeights, qkv: Tensor, forward: ForwardPass) -> Tensor:
        """Attention ``[B, n, heads * size]`` of queries, keys and values side by side."""
        heads, key_heads = self.attention_heads
        size = self.head_size
        split = qkv.view(*qkv.shape[:2], heads + 2 * key_heads, size)
        query, key, value = split.split((heads, key_heads, key_heads), dim=2)
        if layer.norm_query is not None and layer.norm_key is not None:
            query = self._add_norm(query.contiguous(), None, layer.norm_query)
            key = self._add_norm(key.contiguous(), None, layer.norm_key)
        attended = forward.attend(
            index,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            scale=self._scale,
        )
        return attended.transpose(1, 2).reshape(*qkv.shape[:2], heads * size)

    def _add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor) -> Tensor:
        """Add ``delta`` to ``x`` in place; returns ``weight * x / rms(x)``."""
        if native.can(x, weight):
            return native.add_norm(x, delta, weight, self._shape.epsilon)
        if delta is not None:
            x += delta
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.pow(2).mean(-1, keepdim=True)
        return weight * (wide * torch.rsqrt(mean + self._shape.epsilon)).to(x.dtype)


def _gated(inner: Tensor) -> Tensor:
    """``silu(gate) * up`` of both side by side, ``[..., 2 * size]``."""
    if native.can(inner) and inner.shape[-1] % 64 == 0:
        return native.gate(inner)
    gate, up = inner.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _layer(weights: Mapping[str, Tensor], index: int) -> LayerWeights:
    prefix = f"model.layers.{index}."

    def linear(*names: str) -> Linear:
        biases = [weights.get(f"{prefix}{name}.bias") for name in names]
        parts = [weights[f"{prefix}{name}.weight"] for name in names]
        if all(bias is None for bias in biases):
            bias = None
        else:
            bias = torch.cat([weights[f"{prefix}{name}.bias"] for name in names])
        return Linear(parts[0] if len(parts) == 1 else torch.cat(parts), bias)

    return LayerWeights(
        norm_attention=weights[f"{prefix}input_layernorm.weight"],
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        norm_query=weights.get(f"{prefix}self_attn.q_norm.weight"),
        norm_key=weights.get(f"{prefix}self_attn.k_norm.weight"),
        output=linear("self_attn.o_proj"),
        norm_mlp=weights[f"{prefix}post_attention_layernorm.weight"],
        gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp.down_proj"),
    )
