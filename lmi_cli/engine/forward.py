"""One forward pass over one chunk, as the attention layers see it.

Imports ``attention``, ``cache`` and ``methods``. The model hands each layer's un-rotated queries
and keys to :meth:`ForwardPass.attend`; everything positional happens here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmi_cli.attention.kernel import attend, merge
from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import KeyRange, TokenRange, TokenView
from lmi_cli.attention.rope import Rotary, Turn, phase_dtype
from lmi_cli.attention.segment import Fixed, Position, Region, Segment
from lmi_cli.attention.topk import attend_topk
from lmi_cli.cache.layer import LayerCache
from lmi_cli.cache.state import StreamState


class Asked(NamedTuple):
    """The queries of one layer, as its attention gets them.

    Attributes:
        query: ``[B, H, Q, D]``, un-rotated.
        scale: Factor on each score.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.
    """

    query: Tensor
    scale: float
    softcap: float | None


_Turns = list[tuple[Turn | None, ...]]
"""Rotations of the query and of the key in each segment."""

Observer = Callable[[int, Asked], None]
"""Is shown the index of each layer and its queries."""


class ForwardPass:
    """Attention for ``count`` new tokens behind a state; the state's caches take up their keys.

    Deliberately not a container and without a ``to`` method: libraries that move a module's
    arguments between devices copy containers, and a copy's changes would be lost.

    Attributes:
        position: True position of the first new token.
    """

    def __init__(
        self,
        state: StreamState,
        layers: Sequence[LayerSpec],
        count: int,
        observe: Observer | None = None,
    ) -> None:
        self._state = state
        self._layers = layers
        self._observe = observe
        self.position = state.position
        self._last = state.position + count - 1
        self._positions = torch.arange(state.position, state.position + count)
        self._turns: dict[tuple[int, Position, float, torch.dtype, torch.device], Turn] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        softcap: float | None = None,
    ) -> Tensor:
        """Attention output ``[B, H, Q, Dv]`` of one layer.

        Args:
            layer: Zero-based index.
            query: ``[B, H, Q, D]``, un-rotated.
            key: ``[B, Hkv, Q, D]``, un-rotated.
            value: ``[B, Hkv, Q, Dv]``.
            scale: Factor on each score.
            softcap: See :func:`lmi_cli.attention.kernel.attend`.
        """
        spec = self._layers[layer]
        cache = self._state.caches[layer]
        segments = self._state.segments[layer]
        for store in self._state.stores:
            store.append(layer, key, value, self.position)
        if self._observe is not None:
            self._observe(layer, Asked(query, scale, softcap))
        for segment in segments:
            self._store(segment, spec.rotary, cache, key, value)

        ranges: list[KeyRange] = []
        queries: dict[Position, Tensor] = {}
        for segment in segments:
            held = None if segment.topk is not None else cache.region(segment.region)
            if held is None:
                continue
            start = held[2] if segment.region is Region.WINDOW else self._state.origin
            if self._last - start < segment.nearest:
                continue  # too near to be seen yet, so no query needs to be turned towards it
            at = segment.query_position
            if at not in queries:
                queries[at] = self._rotate(spec.rotary, query, at, scale)
            ranges.append(
                KeyRange(queries[at], held[0], held[1], start, segment.nearest, segment.farthest)
            )
        parts = [
            attend_topk(
                self._rotate(spec.rotary, query, segment.query_position, scale),
                self._state.middle.key_blocks(layer),
                segment.topk,
                query_start=self.position,
                nearest=segment.nearest,
                softcap=softcap,
            )
            for segment in segments
            if segment.topk is not None and self._state.middle is not None
        ]
        output, lse = attend(
            ranges, query_start=self.position, softcap=softcap, with_lse=bool(parts)
        )
        return output if lse is None else merge([(output, lse), *parts])[0]

    def views(self, scale: float, dtype: torch.dtype) -> list[TokenView] | None:
        """What the one token of this pass sees in each layer, with room made for its own key.

        Args:
            scale: Factor on each score.
            dtype: In which the model computes.

        Returns:
            None where attention is more than one softmax over what is cached, or nothing is yet.
        """
        state = self._state
        if state.stores or self._observe is not None or self.position != self._last:
            return None
        for cache, segments in zip(state.caches, state.segments, strict=True):
            if not len(cache.window) or cache.missing_sinks():
                return None
            if any(segment.topk is not None for segment in segments):
                return None
        turns: dict[tuple[int, int, torch.device], _Turns] = {}
        views = []
        for layer, cache, segments in zip(self._layers, state.caches, state.segments, strict=True):
            device = cache.window.tensors[0].device
            alike = (id(layer.rotary), id(segments), device)
            if alike not in turns:
                turns[alike] = [
                    tuple(
                        self._turn_of(layer.rotary, position, factor, dtype, device)
                        for position, factor in (
                            (segment.query_position, scale),
                            (segment.key_position, 1.0),
                        )
                    )
                    for segment in segments
                ]
            views.append(self._view(cache, segments, turns[alike]))
        return views

    def _view(self, cache: LayerCache, segments: Sequence[Segment], turns: _Turns) -> TokenView:
        window = cache.window
        column = window.reserve(1, self.position)
        key, value = window.tensors
        ranges: list[TokenRange] = []
        turn: Turn | None = None
        for segment, (query_turn, key_turn) in zip(segments, turns, strict=True):
            if segment.region is Region.WINDOW:
                turn = key_turn
                held = (key, value, window.begin, len(window), window.start)
            elif cache.sinks is not None:
                held = (*cache.sinks, 0, cache.sinks[0].shape[2], self._state.origin)
            else:
                continue
            if self._last - held[-1] >= segment.nearest:
                ranges.append(TokenRange(query_turn, *held, segment.nearest, segment.farthest))
        return TokenView(tuple(ranges), key, value, column, turn)

    def _store(
        self,
        segment: Segment,
        rotary: Rotary | None,
        cache: LayerCache,
        key: Tensor,
        value: Tensor,
    ) -> None:
        if segment.region is Region.WINDOW:
            cache.window.append(
                self._rotate(rotary, key, segment.key_position), value, self.position
            )
        elif segment.region is Region.SINKS and (missing := cache.missing_sinks()):
            sinks = self._rotate(rotary, key, segment.key_position)
            cache.add_sinks(sinks[:, :, :missing], value[:, :, :missing])

    def _rotate(
        self, rotary: Rotary | None, x: Tensor, position: Position, scale: float = 1.0
    ) -> Tensor:
        turn = self._turn_of(rotary, position, scale, x.dtype, x.device)
        if rotary is None or turn is None:
            return x if scale == 1.0 else x * scale
        return rotary.apply(x, turn)

    def _turn_of(
        self,
        rotary: Rotary | None,
        position: Position,
        scale: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Turn | None:
        """Shared by all layers of one frequency set on one device; None for no rotation."""
        if rotary is None or position == Fixed(0):
            return None
        wide = phase_dtype(dtype)
        place = (id(rotary), position, scale, wide, device)
        if place not in self._turns:
            assigned = position.assign(self._positions)
            if isinstance(position, Fixed):
                assigned = assigned[:1]
            self._turns[place] = rotary.turn(rotary.phases(assigned, wide, device), scale)
        return self._turns[place]
