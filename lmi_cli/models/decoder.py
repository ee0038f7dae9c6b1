"""Our own decoder of layers of attention and a gated MLP: no modules, no masks, no copies.

For the families that :mod:`lmi_cli.models.families` gives a layout, on the CPU, where the many
small operations of a general library take a fifth of the time of prefill and two thirds of the time
of decoding a token. It rounds where transformers rounds. In bfloat16, with the library in C,
weights are packed once and a token takes one call; otherwise torch computes. Imports torch, not
transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV
from lmi_cli.attention.rope import Rotary
from lmi_cli.engine.language_model import Attention, LanguageModel, Losses
from lmi_cli.models.blueprint import EMBEDDING, HEAD, Blueprint
from lmi_cli.models.logits import LogitsScale
from lmi_cli.models.losses import losses_of
from lmi_cli.models.torch_linear import TorchLinear
from lmi_cli.models.weights import Weights
from lmi_cli.native import likelihood, pointwise
from lmi_cli.native.attention import MAX_FEW, MAX_RANGES, SIZES
from lmi_cli.native.library import takes
from lmi_cli.native.linear import PackedLinear, Weight, halves, kind_of
from lmi_cli.native.step import LayerNorms, StepLayer, Stepper

_BITS = {"int8": 8, "int4": 4}


Linear = TorchLinear | PackedLinear


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    norms: LayerNorms

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
        self._scale = blueprint.score_scale or blueprint.head_size**-0.5
        self._finished = LogitsScale(
            divisor=blueprint.logits_divisor, softcap=blueprint.logits_softcap
        )
        self._weights, self._before = weights, packed
        self._shapes = blueprint.shapes(weights.keys())
        norm = weights["model.norm.weight"]
        self.dtype, self.device = norm.dtype, norm.device
        self._packs = takes(norm) and blueprint.is_packable
        self.linear_by = "C" if self._packs else "torch"
        self._norm = self._norm_weight(norm)
        if quantize != "none" and not self._packs:
            raise ValueError("weights of few bits need bfloat16 and the library in C")
        self.quantize = quantize
        self.packed: dict[str, PackedLinear] = {}
        # The largest tensors come first, while little else is in memory.
        self._embedding = self._linear("embedding", [EMBEDDING])
        self._head = self._embedding if blueprint.tied else self._linear("head", [HEAD])
        self.vocab_size = blueprint.vocabulary
        self.device_map = {"": str(self.device)}
        self._layers = [self._layer(index) for index in range(blueprint.layers)]
        del self._weights, self._before, self._shapes
        self._stepper: Stepper | None = None
        self.family = blueprint.family
        self.trained_length = blueprint.trained_length
        self.attention_heads = (blueprint.heads, blueprint.key_heads)
        self.head_size = blueprint.head_size

    def layers(self, horizon: int) -> list[LayerSpec]:
        """The layers; their frequencies are the same for every ``horizon``."""
        sets = [Rotary(torch.tensor(inv_freq)) for inv_freq in self._shape.frequencies]
        _, key_heads = self.attention_heads
        return [
            LayerSpec(index, None if rotary is None else sets[rotary], window, key_heads)
            for index, (rotary, window) in enumerate(
                zip(self._shape.rotaries, self._shape.windows, strict=True)
            )
        ]

    def layer_device(self, index: int) -> torch.device:
        """The CPU."""
        return self.device

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights."""
        linears = [linear for layer in self._layers for linear in layer.linears]
        linears += [self._head] if self._head is self._embedding else [self._head, self._embedding]
        norms = [norm for layer in self._layers for norm in layer.norms if norm is not None]
        # Small as they are, norms are counted in the dtype in which they are stored.
        return sum(linear.nbytes for linear in linears) + self.dtype.itemsize * sum(
            norm.numel() for norm in (*norms, self._norm)
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

    def step_obstacle(self, tokens: int) -> str | None:
        """See :meth:`LanguageModel.step_obstacle`."""
        if not self._packs:
            return "torch computes the linear layers"
        if self.head_size not in SIZES:
            return f"heads have {self.head_size} components"
        return None if tokens <= MAX_FEW else f"a pass has more than {MAX_FEW} tokens"

    @torch.inference_mode()
    def hidden(self, ids: Tensor, attention: Attention, depth: int | None = None) -> Tensor:
        """See :meth:`LanguageModel.hidden`."""
        x = self._embedding.embed(ids)
        if self._shape.embedding_scale != 1.0:
            x *= torch.tensor(self._shape.embedding_scale, dtype=x.dtype)
        whole = depth is None and self.step_obstacle(ids.numel()) is None
        if not whole or not self._stepped(x, attention):
            activation = self._shape.activation
            for index, layer in enumerate(self._layers[:depth]):
                norms = layer.norms
                qkv = layer.qkv(self._normed(x, norms.before_attention))
                attended = self._attend(index, layer, qkv, attention)
                if index + 1 == depth:
                    break
                self._add(layer.output, attended, norms.after_attention, x)
                active = layer.gate_up.gated(self._normed(x, norms.before_mlp), activation)
                self._add(layer.down, active, norms.after_mlp, x)
        return self._normed(x, self._norm)

    @torch.inference_mode()
    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[..., hidden]``), at most ``rows`` tokens at a time."""
        for part in hidden.reshape(-1, hidden.shape[-1]).split(rows):
            yield self._finished(self._head.wide(part))

    @torch.inference_mode()
    def losses(self, hidden: Tensor, targets: Tensor, *, with_entropy: bool = False) -> Losses:
        """See :meth:`LanguageModel.losses`."""
        finished = self._finished
        if isinstance(self._head, TorchLinear):
            logits = map(finished, self._head.in_parts(hidden))
            return losses_of(logits, targets, with_entropy=with_entropy)
        return Losses(
            *likelihood.losses(
                self._head,
                hidden,
                targets,
                factor=finished.whole_factor,
                softcap=finished.softcap or 0.0,
                with_entropy=with_entropy,
            )
        )

    def output_rows(self, first: int, stop: int) -> Tensor:
        """See :meth:`LanguageModel.output_rows`."""
        return self._head.weights(first, stop)

    def _stepped(self, x: Tensor, attention: Attention) -> bool:
        """Take a few tokens (``[1, n, hidden]``) through all layers in C; False if not possible."""
        views = attention.views(self._scale, self.dtype, MAX_RANGES)
        if views is None:
            return False
        if self._stepper is None:
            self._stepper = Stepper(
                [StepLayer(_packed(layer.linears), layer.norms) for layer in self._layers],
                self.attention_heads,
                activation=self._shape.activation,
                epsilon=self._shape.epsilon,
                twice=self._shape.layout.norm_twice,
                whole_norms=self._shape.layout.whole_norms,
                scale=self._scale,
                residual_scale=self._shape.residual_scale,
                softcap=self._shape.softcap,
            )
        self._stepper.step(x, views, attention.position)
        return True

    def _attend(self, index: int, layer: _Layer, qkv: Tensor, attention: Attention) -> Tensor:
        """Attention ``[B, n, heads * size]`` of queries, keys and values side by side."""
        heads, key_heads = self.attention_heads
        size = self.head_size
        split = qkv.view(*qkv.shape[:2], heads + 2 * key_heads, size)
        query, key, value = split.split((heads, key_heads, key_heads), dim=2)
        query = self._normed_heads(query, layer.norms.query)
        key = self._normed_heads(key, layer.norms.key)
        attended = attention.attend(
            index,
            QKV(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                self._scale,
                self._shape.softcap,
            ),
        )
        return attended.transpose(1, 2).reshape(*qkv.shape[:2], heads * size)

    def _add(self, linear: Linear, x: Tensor, after: Tensor | None, to: Tensor) -> None:
        """Add the outputs for ``x``, normalised by ``after`` and scaled, to the residual ``to``."""
        scale = self._shape.residual_scale
        if after is None and scale == 1.0:
            linear.add(x, to)
            return
        outputs = self._normed(linear(x), after)
        to += outputs if scale == 1.0 else outputs.mul_(scale)

    def _normed_heads(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Queries or keys ``[B, n, heads, size]``, normalised head by head or together."""
        if weight is None:
            return x
        if self._shape.layout.whole_norms:
            return self._normed(x.flatten(2).contiguous(), weight).view(x.shape)
        return self._normed(x.contiguous(), weight)

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """``weight * x / rms(x)``, row by row; ``x`` itself without a weight."""
        if weight is None:
            return x
        epsilon, twice = self._shape.epsilon, self._shape.layout.norm_twice
        if pointwise.can_norm(x):
            return pointwise.norm(x, weight, epsilon, twice)
        wide = x.to(weight.dtype)
        quotient = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        quotient = quotient.to(x.dtype) if twice else quotient
        return (weight * quotient).to(x.dtype)

    def _norm_weight(self, stored: Tensor) -> Tensor:
        """The weight of a norm in float32 or wider, as :attr:`LayerLayout.norm_offset` says."""
        wide = stored.to(torch.promote_types(stored.dtype, torch.float32))
        return wide + self._shape.layout.norm_offset

    def _layer(self, index: int) -> _Layer:
        prefix, weights, layout = f"model.layers.{index}.", self._weights, self._shape.layout

        def linear(kind: str, *names: str, gated: bool = False) -> Linear:
            return self._linear(f"{prefix}{kind}", [f"{prefix}{name}" for name in names], gated)

        def norm(name: str | None) -> Tensor | None:
            stored = None if name is None else weights.get(f"{prefix}{name}.weight")
            return None if stored is None else self._norm_weight(stored)

        projections = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
        inner = ["mlp.gate_proj", "mlp.up_proj"]
        if layout.fused:
            projections, inner = ["self_attn.qkv_proj"], ["mlp.gate_up_proj"]
        return _Layer(
            qkv=linear("qkv", *projections),
            output=linear("output", "self_attn.o_proj"),
            gate_up=linear("gate_up", *inner, gated=True),
            down=linear("down", "mlp.down_proj"),
            norms=LayerNorms(
                before_attention=norm(layout.before_attention),
                after_attention=norm(layout.after_attention),
                before_mlp=norm(layout.before_mlp),
                after_mlp=norm(layout.after_mlp),
                query=norm("self_attn.q_norm"),
                key=norm("self_attn.k_norm"),
            ),
        )

    def _linear(self, name: str, modules: Sequence[str], gated: bool = False) -> Linear:
        """A layer of several modules, stacked along the outputs, or of a gated pair.

        Args:
            name: What it is called among those that have been packed before.
            modules: Names of their weights, without ``.weight``.
            gated: Whether they are the two inner projections of an MLP, or one tensor of both.
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
        if gated:
            packed = PackedLinear.join_gated(*(halves(found[0]) if len(found) == 1 else found))
        else:
            packed = PackedLinear.join(found, bias)
        del found
        if self.quantize in _BITS:
            outer = name in ("embedding", "head")
            packed = packed.quantized(8 if outer else _BITS[self.quantize])
        if self.quantize != "none":
            self.packed[name] = packed
        return packed


def _packed(linears: Sequence[Linear]) -> list[PackedLinear]:
    return [linear for linear in linears if isinstance(linear, PackedLinear)]
