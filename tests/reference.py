"""LM-Infinite by its definition: dense, in float64, one full score matrix a layer.

Written from the definition alone (docs/design, "LM-Infinite attention") and sharing no code with
the package, so that both being wrong in the same way is unlikely:

    query i sees   keys j with 0 <= i - j < W            at distance i - j,
                   keys j < S  with i - j >= W           at distance C,
                   nothing else; one softmax over both.

With a middle memory, a query of the question (i >= document) also sees, in layers >= from_layer,

                   of keys S <= j <= i - W, j < document, the k that score best in its head at
                   distance m, all at distance m; the lowest j among equals.

A layer with a sliding window of its own that is no wider than W keeps it and sees nothing beyond.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tiny_models import float64_transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NEIGHBOURS = {
    "codegen",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "deepseek_v2",
    "ernie4_5",
    "glm",
    "glm4",
    "gptj",
    "helium",
    "llama4_text",
}
_ONLY_SLIDING_ROTATED = {"afmoe", "cohere2", "cohere2_moe", "exaone4", "exaone_moe"}


@dataclass(frozen=True)
class Middle:
    """Memory of the middle: tokens of the document, k, first layer, distance."""

    document: int
    topk: int
    from_layer: int
    distance: int


@dataclass(frozen=True)
class Lambda:
    """Window, sinks and ceiling, in tokens, and what is remembered of the middle."""

    window: int
    sinks: int
    ceiling: int
    middle: Middle | None = None

    def frequencies(self, own: Tensor, native: int | None) -> tuple[Tensor, float]:
        """Those of the model."""
        return own, 1.0

    def masks(self, count: int, native: int | None = None) -> tuple[Tensor, Tensor]:
        """Who sees whom (``[query, key]``) at the true distance, and at the ceiling."""
        query, key = torch.arange(count)[:, None], torch.arange(count)[None]
        distance = query - key
        if native is not None and native <= self.window:
            return (distance >= 0) & (distance < native), torch.zeros(count, count, dtype=bool)
        near = (distance >= 0) & (distance < self.window)
        return near, (distance >= self.window) & (key < self.sinks)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        turn: Callable[[Tensor, Tensor], Tensor],
        *,
        scale: float,
        softcap: float | None = None,
        native: int | None = None,
        layer: int = 0,
        folds: int = 1,
        slopes: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Attention ``[H, n, Dv]`` of un-rotated ``[H, n, D]``; ``turn(x, positions)`` rotates.

        ``folds`` heads after each other have the same keys and values. Of each head, ``slopes[h]``
        is taken off a score for each token of distance, and ``sinks[h]`` is one more score, without
        a value.
        """
        count = query.shape[1]
        own, ceiling = torch.arange(count), torch.full((count,), self.ceiling)
        true = turn(query, own) @ turn(key, own).mT * scale
        far = turn(query, ceiling) @ key.mT * scale
        if softcap is not None:
            true, far = softcap * (true / softcap).tanh(), softcap * (far / softcap).tanh()
        i, j = torch.arange(count)[:, None], torch.arange(count)[None]
        true, far = lowered(true, slopes, i - j), lowered(far, slopes, self.ceiling)
        near_mask, far_mask = self.masks(count, native)
        scores = torch.where(near_mask, true, torch.where(far_mask, far, -math.inf))
        middle = self.middle
        narrower = native is not None and native <= self.window
        if middle is not None and layer >= middle.from_layer and not narrower:
            stored = turn(query, torch.full((count,), middle.distance)) @ key.mT * scale
            if softcap is not None:
                stored = softcap * (stored / softcap).tanh()
            stored = lowered(stored, slopes, middle.distance)
            seen = (i >= middle.document) & (j < middle.document)
            seen = seen & (j >= self.sinks) & (i - j >= self.window)
            stored = stored.masked_fill(~seen, -math.inf)
            order = stored.sort(dim=-1, descending=True, stable=True).indices
            rank = order.sort(-1).indices
            scores = torch.where(seen & (rank < middle.topk), stored, scores)
        return weights_of(scores, sinks) @ value


def lowered(scores: Tensor, slopes: Tensor | None, distance: Tensor | int) -> Tensor:
    """ALiBi, of scores ``[H, n, n]`` at a distance, or at ``[n, n]`` of them."""
    return scores if slopes is None else scores - slopes[:, None, None] * distance


def weights_of(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax of scores ``[H, n, n]``, with one more of each head that has no value."""
    if sinks is None:
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return weights / weights.sum(-1, keepdim=True)
    more = sinks[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.cat((scores, more), -1).softmax(-1)[..., :-1]


def turning(frequencies: Tensor | None, neighbours: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that rotates ``[H, n, D]`` to positions ``[n]``: pairs as complex numbers."""

    def turn(x: Tensor, positions: Tensor) -> Tensor:
        if frequencies is None:
            return x
        pairs = len(frequencies)
        shape = (pairs, 2) if neighbours else (2, pairs)
        parts = x[..., : 2 * pairs].unflatten(-1, shape).movedim(-1 if neighbours else -2, 0)
        angles = positions[:, None].double() * frequencies.double()
        turned = torch.complex(*parts) * torch.exp(1j * angles)
        back = torch.stack((turned.real, turned.imag), -1 if neighbours else -2)
        return torch.cat((back.flatten(-2), x[..., 2 * pairs :]), -1)

    return turn


class Reference(Protocol):
    """A method as one dense softmax; see :class:`Lambda`."""

    @property
    def window(self) -> int: ...

    def frequencies(self, own: Tensor, native: int | None) -> tuple[Tensor, float]: ...

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        turn: Callable[[Tensor, Tensor], Tensor],
        *,
        scale: float,
        softcap: float | None = None,
        native: int | None = None,
        layer: int = 0,
        folds: int = 1,
        slopes: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor: ...


def reference_logits(model: PreTrainedModel, ids: NDArray[np.int32], method: Reference) -> Tensor:
    """Logits ``[n, vocab]`` of a model all of whose layers attend by ``method``.

    At position 0 the model's own rotation is the identity, up to the factor that some frequency
    sets put on queries and keys alike.
    """
    config = model.config
    before = config._attn_implementation

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        softcap: float | None = None,
        sliding_window: int | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        assert attention_mask is None
        folds = query.shape[1] // key.shape[1]
        query = query * growth(config, query.shape[2])
        if last := getattr(config, "qk_rope_head_dim", 0):  # what is rotated comes first below
            query, key = (torch.cat((x[..., -last:], x[..., :-last]), -1) for x in (query, key))
        native = _chunk(config, module.layer_idx) or sliding_window
        frequencies = _frequencies(model, module.layer_idx, method.window)
        if frequencies is not None:
            frequencies, factor = method.frequencies(frequencies, native)
            scaling *= factor
        turn = turning(frequencies, config.model_type in _NEIGHBOURS)
        parts = (query[0], *(x[0].repeat_interleave(folds, 0) for x in (key, value)))
        # A chunk is a text of its own.
        size = _chunk(config, module.layer_idx) or query.shape[2]
        behind = getattr(method, "behind", lambda tokens: method)
        chunks = [
            behind(number * size).attention(
                *part,
                turn,
                scale=scaling,
                softcap=softcap,
                native=native,
                layer=module.layer_idx,
                folds=folds,
                **({} if s_aux is None else {"sinks": s_aux}),
            )
            for number, part in enumerate(zip(*(x.split(size, 1) for x in parts), strict=True))
        ]
        output = torch.cat(chunks, 1)
        return output.transpose(0, 1)[None].contiguous(), None

    ALL_ATTENTION_FUNCTIONS["reference"] = attend
    try:
        model.set_attn_implementation("reference")
        tokens = torch.from_numpy(ids).long()[None]
        with torch.inference_mode(), float64_transformers():
            return model(
                input_ids=tokens, position_ids=torch.zeros_like(tokens), use_cache=False
            ).logits[0]
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS["reference"]


def _chunk(config: PretrainedConfig, layer: int) -> int | None:
    """Tokens of the chunks within which a layer attends; None for one that does not."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return config.attention_chunk_size if kinds[layer] == "chunked_attention" else None


def growth(config: PretrainedConfig, count: int) -> Tensor:
    """The factor of Ministral 3 on the queries of ``count`` tokens, ``[count, 1]``."""
    rope = getattr(config, "rope_parameters", None) or {}
    rate, every = (
        rope.get("llama_4_scaling_beta", 0.0),
        rope.get("original_max_position_embeddings"),
    )
    turns = torch.arange(count) // (every or count)
    return (1 + rate * (1 + turns.double()).log())[:, None]


def _frequencies(model: PreTrainedModel, layer: int, window: int) -> Tensor | None:
    config, base = model.config, model.base_model
    rotary = base.model.rotary_emb if base is model else base.rotary_emb
    if config.model_type in ("codegen", "gptj"):
        return 1.0 / 10000.0 ** (torch.arange(0, config.rotary_dim, 2) / config.rotary_dim)
    if config.model_type in ("llama4_text", "smollm3") and not config.no_rope_layers[layer]:
        return None
    if config.model_type in _ONLY_SLIDING_ROTATED and config.layer_types[layer] == "full_attention":
        return None
    if config.model_type in ("gemma3_text", "olmo3"):
        return getattr(rotary, f"{config.layer_types[layer]}_inv_freq")
    rope = config.rope_parameters
    if rope["rope_type"] == "longrope":
        long = window > rope["original_max_position_embeddings"]
        factor = torch.tensor(rope["long_factor" if long else "short_factor"])
        exponent = torch.arange(len(factor)) * 2 / (2 * len(factor))
        return 1.0 / (factor * rope["rope_theta"] ** exponent)
    return rotary.inv_freq
