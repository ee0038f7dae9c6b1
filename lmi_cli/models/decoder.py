"""Our own decoder of the Llama kind: no modules, no masks, no copies between layers.

For Llama, Mistral, Qwen 2 and Qwen 3 on the CPU (see :mod:`lmi_cli.models.prepared`), where the
many small operations of a general library take a fifth of the time of prefill and two thirds of
the time of decoding a token. It rounds where transformers rounds. In bfloat16, with the library in
C, weights are packed once and a token takes one call; otherwise torch computes. Imports torch, not
transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import Rotary
from lmi_cli.engine.language_model import Attention, LanguageModel
from lmi_cli.models.blueprint import EMBEDDING, HEAD, Blueprint
from lmi_cli.models.weights import Weights
from lmi_cli.native import onednn, pointwise
from lmi_cli.native.attention import MAX_FEW, MAX_RANGES, SIZES
from lmi_cli.native.library import takes
from lmi_cli.native.linear import PackedLinear, Weight, kind_of
from lmi_cli.native.step import StepLayer, Stepper

_BITS = {"int8": 8, "int4": 4}


class TorchLinear:
    """A linear layer that torch computes."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias
        self.rows, self.columns = weight.shape

    @classmethod
    def join(cls, weights: Sequence[Tensor], bias: Tensor | None = None) -> "TorchLinear":
        """A layer of several weights (``[., in]``), stacked along the outputs."""
        return cls(weights[0] if len(weights) == 1 else torch.cat(tuple(weights)), bias)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._weight.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[..., out]`` of ``x`` (``[..., in]``)."""
        with onednn.linear_layers(x.numel() // self.columns, x.device):
            return functional.linear(x, self._weight, self._bias)

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add the outputs of ``x`` to ``to``."""
        to += self(x)

    def gated(self, x: Tensor) -> Tensor:
        """``silu(gate) * up`` of ``x``."""
        gate, up = self(x).chunk(2, dim=-1)
        return functional.silu(gate) * up

    def wide(self, x: Tensor) -> Tensor:
        """Outputs in float32 or wider."""
        out = self(x)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def weights(self, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` of the weight."""
        return self._weight[first:stop]

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the weight by index."""
        return functional.embedding(ids, self._weight)


Linear = TorchLinear | PackedLinear


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer. The last two norms, those of queries and of keys, may be None."""

    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]

    @property
    def linears(self) -> tuple[Linear, ...]:
        return (self.qkv, self.output, self.gate_up, self.down)


class Decoder(LanguageModel):
    """A model built from its shape and its weights.

    Args:
        blueprint: The shape.
        weights: Tensors by the names that transformers gives them.
        quantize: ``none``; ``blocks`` keeps those of a GGUF file; ``int8`` and ``int4`` round the
            weights of linear layers, the output projection and the embedding to eight bits in
            either case.
        packed: Linear layers by name that have been packed before.

    Attributes:
        packed: All linear layers by name, if some have few bits.

    Raises:
        KeyError: A weight is missing.
        ValueError: These weights cannot be quantized here.
    """

    computed_by = "lmi"

    def __init__(
        self,
        blueprint: Blueprint,
        weights: Mapping[str, Tensor],
        *,
        quantize: str = "none",
        packed: Mapping[str, PackedLinear] = MappingProxyType({}),
    ) -> None:
        self._shape = blueprint
        self._scale = blueprint.head_size**-0.5
        self._weights, self._before = weights, packed
        self._shapes = blueprint.shapes(weights.keys())
        self._norm = weights["model.norm.weight"]
        self._packs = takes(self._norm) and blueprint.is_packable
        if quantize != "none" and not self._packs:
            raise ValueError("weights of few bits need bfloat16 and the library in C")
        self.quantize = quantize
        self.packed: dict[str, PackedLinear] = {}
        # The largest tensors come first, while little else is in memory.
        self._embedding = self._linear("embedding", [EMBEDDING])
        self._head = self._embedding if blueprint.tied else self._linear("head", [HEAD])
        self.vocab_size = blueprint.vocabulary
        self.dtype = self._norm.dtype
        self.device = self._norm.device
        self.device_map = {"": str(self.device)}
        self._layers = [self._layer(index) for index in range(blueprint.layers)]
        del self._weights, self._before, self._shapes
        self._stepper: Stepper | None = None
        self.family = blueprint.family
        self.trained_length = blueprint.trained_length
        self.attention_heads = (blueprint.heads, blueprint.key_heads)
        self.head_size = blueprint.head_size

    def layers(self, horizon: int) -> list[LayerSpec]:
        """The layers, all alike; the frequencies are the same for every ``horizon``."""
        rotary = Rotary(torch.tensor(self._shape.inv_freq))
        return [LayerSpec(index, rotary) for index in range(self._shape.layers)]

    def layer_device(self, index: int) -> torch.device:
        """The CPU."""
        return self.device

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights."""
        linears = [linear for layer in self._layers for linear in layer.linears]
        linears += [self._head] if self._head is self._embedding else [self._head, self._embedding]
        norms = [norm for layer in self._layers for norm in layer.norms if norm is not None]
        return sum(linear.nbytes for linear in linears) + sum(
            norm.nbytes for norm in (*norms, self._norm)
        )

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linear layers, without the output projection after them."""
        linears = (linear for layer in self._layers for linear in layer.linears)
        return sum(linear.rows * linear.columns for linear in linears)

    @property
    def step_bytes(self) -> int:
        """Bytes of the weights that are read for one generated token."""
        linears = (linear for layer in self._layers for linear in layer.linears)
        return sum(linear.nbytes for linear in linears) + self._head.nbytes

    @property
    def alike_rows(self) -> int:
        """See :meth:`LanguageModel.alike_rows`; only the library in C promises any."""
        if not (self._packs and self.head_size in SIZES):
            return 1
        linears = (linear for layer in self._layers for linear in layer.linears)
        return min(linear.alike_rows for linear in _packed([*linears, self._head]))

    @torch.inference_mode()
    def hidden(self, ids: Tensor, attention: Attention, depth: int | None = None) -> Tensor:
        """See :meth:`LanguageModel.hidden`."""
        x = self._embedding.embed(ids)
        whole = depth is None
        if ids.numel() > MAX_FEW or not whole or not self._stepped(x, attention):
            for index, layer in enumerate(self._layers[:depth]):
                qkv = layer.qkv(self._normed(x, layer.norms[0]))
                attended = self._attend(index, layer, qkv, attention)
                if index + 1 == depth:
                    break
                layer.output.add(attended, x)
                layer.down.add(layer.gate_up.gated(self._normed(x, layer.norms[1])), x)
        return self._normed(x, self._norm)

    @torch.inference_mode()
    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[..., hidden]``), at most ``rows`` tokens at a time."""
        for part in hidden.reshape(-1, hidden.shape[-1]).split(rows):
            yield self._head.wide(part)

    def output_rows(self, first: int, stop: int) -> Tensor:
        """See :meth:`LanguageModel.output_rows`."""
        return self._head.weights(first, stop)

    def _stepped(self, x: Tensor, attention: Attention) -> bool:
        """Take a few tokens (``[1, n, hidden]``) through all layers in C; False if not possible."""
        steps = self._packs and self.head_size in SIZES
        views = attention.views(self._scale, self.dtype, MAX_RANGES) if steps else None
        if views is None:
            return False
        if self._stepper is None:
            self._stepper = Stepper(
                [StepLayer(_packed(layer.linears), layer.norms) for layer in self._layers],
                self.attention_heads,
                epsilon=self._shape.epsilon,
                scale=self._scale,
            )
        self._stepper.step(x, views, attention.position)
        return True

    def _attend(self, index: int, layer: _Layer, qkv: Tensor, attention: Attention) -> Tensor:
        """Attention ``[B, n, heads * size]`` of queries, keys and values side by side."""
        heads, key_heads = self.attention_heads
        size = self.head_size
        split = qkv.view(*qkv.shape[:2], heads + 2 * key_heads, size)
        query, key, value = split.split((heads, key_heads, key_heads), dim=2)
        *_, norm_query, norm_key = layer.norms
        if norm_query is not None:
            query = self._normed(query.contiguous(), norm_query)
        if norm_key is not None:
            key = self._normed(key.contiguous(), norm_key)
        attended = attention.attend(
            index,
            QKV(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), self._scale),
        )
        return attended.transpose(1, 2).reshape(*qkv.shape[:2], heads * size)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """``weight * x / rms(x)``, row by row."""
        if pointwise.can_norm(x):
            return pointwise.norm(x, weight, self._shape.epsilon)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.pow(2).mean(-1, keepdim=True)
        return weight * (wide * torch.rsqrt(mean + self._shape.epsilon)).to(x.dtype)

    def _layer(self, index: int) -> _Layer:
        prefix, weights = f"model.layers.{index}.", self._weights

        def linear(kind: str, *names: str, gated: bool = False) -> Linear:
            return self._linear(f"{prefix}{kind}", [f"{prefix}{name}" for name in names], gated)

        return _Layer(
            qkv=linear("qkv", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            output=linear("output", "self_attn.o_proj"),
            gate_up=linear("gate_up", "mlp.gate_proj", "mlp.up_proj", gated=True),
            down=linear("down", "mlp.down_proj"),
            norms=(
                weights[f"{prefix}input_layernorm.weight"],
                weights[f"{prefix}post_attention_layernorm.weight"],
                weights.get(f"{prefix}self_attn.q_norm.weight"),
                weights.get(f"{prefix}self_attn.k_norm.weight"),
            ),
        )

    def _linear(self, name: str, modules: Sequence[str], gated: bool = False) -> Linear:
        """A layer of several modules, stacked along the outputs, or of a gated pair.

        Args:
            name: What it is called among those that have been packed before.
            modules: Names of their weights, without ``.weight``.
            gated: Whether they are the two inner projections of an MLP.
        """
        weights = self._weights
        shapes = [self._shapes[f"{module}.weight"] for module in modules]
        shape = (sum(rows for rows, _ in shapes), shapes[0][1])
        before = self._before.get(name)
        if before is not None and (before.rows, before.columns) == shape:
            self.packed[name] = before
            return before
        biases = [f"{module}.bias" for module in modules]
        bias = torch.cat([weights[b] for b in biases]) if biases[0] in weights else None
        names = [f"{module}.weight" for module in modules]
        if not self._packs:
            return TorchLinear.join([weights[n] for n in names], bias)
        keeps = self.quantize == "blocks"
        found: list[Weight] = [
            weights.as_stored(n) if keeps and isinstance(weights, Weights) else weights[n]
            for n in names
        ]
        if gated and len({kind_of(weight) for weight in found}) > 1:
            found = [weights[n] for n in names]
        packed = PackedLinear.join_gated(*found) if gated else PackedLinear.join(found, bias)
        del found
        if self.quantize in _BITS:
            outer = name in ("embedding", "head")
            packed = packed.quantized(8 if outer else _BITS[self.quantize])
        if self.quantize != "none":
            self.packed[name] = packed
        return packed


def _packed(linears: Sequence[Linear]) -> list[PackedLinear]:
    return [linear for linear in linears if isinstance(linear, PackedLinear)]
