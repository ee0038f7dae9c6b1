"""One forward pass over one chunk, as the attention layers see it.

Imports ``attention``, ``cache`` and ``methods``. The model hands each layer's un-rotated queries,
keys and values to :meth:`ForwardPass.attend`; everything positional happens here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.kernel import attend, merge, with_sinks
from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.mass import key_mass
from lmi_cli.attention.ranges import QKV, KeyRange, TokenRange, TokenView
from lmi_cli.attention.rope import Rotary, Rotation, phase_dtype
from lmi_cli.attention.search import attend_searched
from lmi_cli.attention.segment import Adjacent, Own, Position, Segment, Track
from lmi_cli.cache.blocks import BlockMemory
from lmi_cli.cache.layer import LayerCache
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.track import Span
from lmi_cli.engine.language_model import Attention
from lmi_cli.engine.tally import Tally

Heads = tuple[int, ...] | None
"""Key heads of a layer; None for all."""

Observer = Callable[[int, QKV], None]
"""Called with the index of each layer and its queries, keys and values."""


class ForwardPass(Attention):
    """Attention for ``count`` new tokens behind a state, whose caches store their keys.

    This is deliberately not a container and without a ``to`` method: libraries that move a module's
    arguments between devices copy containers, and a copy's changes would be lost.

    Args:
        state: Where they are behind.
        layers: All attention layers of the model.
        count: How many.
        observe: See :data:`Observer`.
        tally: Counts where attention is computed.
        chunk: Size of the chunks within which some layers attend, for a pass of these alone.

    Attributes:
        position: True position of the first new token.
    """

    def __init__(
        self,
        state: StreamState,
        layers: Sequence[LayerSpec],
        count: int,
        observe: Observer | None = None,
        tally: Tally | None = None,
        chunk: int | None = None,
    ) -> None:
        self._tally = tally
        self._state = state
        self._layers = layers
        self._observe = observe
        self._count = count
        # Of the first new token and of the first of the stream, which a chunk is by itself.
        self.position, self._origin = state.position, state.origin
        if chunk is not None:
            self.position, self._origin = state.tokens % chunk, 0
        self._within: dict[int, ForwardPass] = {}
        self.recurrent = state.recurrent
        self._last = self.position + count - 1
        self._positions = torch.arange(self.position, self.position + count)
        self._rotations: dict[
            tuple[int, Position, float, torch.dtype, torch.device], Rotation | None
        ] = {}
        self._moves: dict[tuple[int, int, int, torch.dtype, torch.device], Rotation] = {}
        self._distances: dict[
            tuple[Position, Position, int, int, torch.dtype, torch.device], tuple[Tensor, Tensor]
        ] = {}

    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """Attention output ``[B, H, Q, Dv]`` of layer number ``layer``, counted from zero."""
        if (growth := self._layers[layer].growth) is not None:
            factors = growth.factors(self._positions - self._origin)[:, None]
            qkv = qkv._replace(query=qkv.query * factors.to(qkv.query))
        for store in self._state.recording:
            store.append(layer, qkv.key, qkv.value, self.position)
        if self._observe is not None:
            self._observe(layer, qkv)
        spec = self._layers[layer]
        if not spec.chunked or spec.native_window is None:
            return self._attended(layer, qkv)
        size = spec.native_window
        if size not in self._within:
            more = (self._state, self._layers, self._count, None, self._tally)
            self._within[size] = ForwardPass(*more, chunk=size)
        return self._within[size]._attended(layer, qkv)

    def _attended(self, layer: int, qkv: QKV) -> Tensor:
        rotary, cache = self._layers[layer].rotary, self._state.caches[layer]
        scale = _scale(rotary, qkv.scale)
        keys: dict[Position, Tensor] = {}
        queries: dict[Position, Tensor] = {}
        for track, cached in cache.tracks.values():
            if count := cached.takes(qkv.key.shape[2]):
                at = track.position
                if at not in keys:
                    keys[at] = self._rotate(rotary, qkv.key, at)
                rows = _rows(track.heads)
                cached.append(keys[at][:, rows, :count], qkv.value[:, rows, :count], self.position)

        segments = self._state.segments[layer]
        folds = qkv.query.shape[1] // qkv.key.shape[1]
        ranges: dict[Heads, list[KeyRange]] = {}
        for segment, span in self._seen(cache, segments):
            at, heads = segment.query_position, cache.tracks[segment.track][0].heads
            if at not in queries:
                queries[at] = self._rotate(rotary, qkv.query, at, scale)
            rows, (key, value) = _rows(heads, folds), span.live
            query, track = queries[at][:, rows], cache.tracks[segment.track][0]
            if isinstance(track.position, Adjacent):
                key = self._moved(rotary, key, span.start)
            alibi = self._alibi(layer, segment, track, span)
            if alibi is not None:
                alibi = alibi.of(rows)
            ranges.setdefault(heads, []).append(
                KeyRange(query, key, value, span.start, segment.nearest, segment.farthest, alibi)
            )
        searches = [
            segment
            for segment in segments
            if segment.topk is not None and segment.track in self._state.searched
        ]
        memories = [
            (segment, cached)
            for segment in segments
            if segment.lookup is not None
            and isinstance(cached := cache.tracks[segment.track][1], BlockMemory)
        ]
        over = partial(attend, query_start=self.position, softcap=qkv.softcap, note=self._note)
        everywhere = ranges.pop(None)
        apart_too = bool(ranges or searches or memories)
        output, lse = over(everywhere, with_lse=apart_too or qkv.sinks is not None)
        if lse is None:
            return output
        parts = [(each.heads, self._search(layer, each, qkv, scale)) for each in searches]
        parts += [(None, self._look_up(*each, layer, qkv, scale)) for each in memories]
        for heads, apart in ranges.items():
            out, sums = over(apart, with_lse=True)
            if sums is not None:
                parts.append((heads, (out, sums)))
        for heads in dict.fromkeys(heads for heads, _ in parts):
            rows = _rows(heads, folds)
            part = [(output[:, rows], lse[:, rows]), *(it for each, it in parts if each == heads)]
            output[:, rows], lse[:, rows] = merge(part)
        if qkv.sinks is not None:
            output, lse = with_sinks(output, lse, qkv.sinks)
        for _, memory in memories:
            mass = key_mass(everywhere[0], lse, query_start=self.position, softcap=qkv.softcap)
            self._note("torch, since the attention that keys get is measured")
            memory.notice(mass, everywhere[0].key_start)
        return output

    def _search(
        self, layer: int, segment: Segment, qkv: QKV, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Attention of a segment's heads to the best matches in a store, and its log-sum-exp."""
        query = self._rotate(self._layers[layer].rotary, qkv.query, segment.query_position, scale)
        folds, store = qkv.query.shape[1] // qkv.key.shape[1], self._state.searched[segment.track]
        self._note("torch, since a store is searched")
        blocks = store.key_blocks(layer, clusters=segment.search.clusters)
        rows = _rows(segment.heads, folds)
        output, lse = attend_searched(
            query[:, rows],
            blocks if segment.heads is None else (block.of(segment.heads) for block in blocks),
            segment.topk or 0,
            segment.search,
            query_start=self.position,
            nearest=segment.nearest,
            softcap=qkv.softcap,
        )
        return output, self._lowered(lse, layer, segment, rows)

    def views(self, scale: float, dtype: torch.dtype, most_ranges: int) -> list[TokenView] | None:
        """See :meth:`Attention.views`.

        There is a view where attention is one softmax over what is cached, and where the keys of
        all tokens go into exactly one track of each layer, a window that slides.
        """
        state = self._state
        count = self._last - self.position + 1
        tracks = [cache.next_tokens_track() for cache in state.caches]
        obstacle = self._views_obstacle(tracks, most_ranges)
        if self._tally is not None:
            self._tally.whole += obstacle is None
            self._tally.refused.update([] if obstacle is None else [obstacle])
        if obstacle is not None:
            return None
        views = []
        # Layers that see alike share their segments, and so their rotations.
        shared: dict[tuple[int, int, torch.device], dict[Position, Rotation | None]] = {}
        for layer, cache, segments, name in zip(
            self._layers, state.caches, state.segments, tracks, strict=True
        ):
            track, cached = cache.tracks[name or ""]
            column = cached.reserve(count, self.position)
            key, value = cached.tensors
            place = (id(layer.rotary), id(segments), key.device)
            if place not in shared:
                shared[place] = {
                    segment.query_position: self._rotation(
                        layer.rotary,
                        segment.query_position,
                        _scale(layer.rotary, scale),
                        dtype,
                        key.device,
                    )
                    for segment in segments
                }
            queries = shared[place]
            ranges = tuple(
                TokenRange(
                    queries[segment.query_position], *span, segment.nearest, segment.farthest
                )
                for segment, span in self._seen(cache, segments)
            )
            rotation = self._rotation(layer.rotary, track.position, 1.0, dtype, key.device)
            views.append(TokenView(ranges, key, value, column, rotation))
        return views

    def _look_up(
        self, segment: Segment, memory: BlockMemory, layer: int, qkv: QKV, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Attention to the blocks that the queries choose, and its log-sum-exp."""
        rotary, lookup = self._layers[layer].rotary, segment.lookup
        query = self._rotate(rotary, qkv.query, segment.query_position, scale)
        outputs, sums = [], []
        for found in memory.look_up(query, self.position, lookup) if lookup else ():
            # They stand anywhere before the queries: nothing here depends on how far.
            start = self.position - found.key.shape[2]
            keys = KeyRange(query[:, :, found.rows], found.key, found.value, start)
            output, lse = attend(
                [keys],
                query_start=self.position + found.rows.start,
                softcap=qkv.softcap,
                with_lse=True,
                note=self._note,
            )
            outputs.append(output)
            sums.append(torch.empty(0) if lse is None else lse)
        lse = self._lowered(torch.cat(sums, 2), layer, segment, _rows(None))
        return torch.cat(outputs, 2), lse

    def _moved(self, rotary: Rotary | None, key: Tensor, start: int) -> Tensor:
        """Keys at position 0, rotated to stand side by side from ``start`` on."""
        if rotary is None:
            return key
        count, wide = key.shape[2], phase_dtype(key.dtype)
        place = (id(rotary), start, count, wide, key.device)
        if place not in self._moves:
            positions = torch.arange(start, start + count)
            self._moves[place] = rotary.rotation(rotary.phases(positions, wide, key.device))
        return rotary.apply(key, self._moves[place])

    def _alibi(self, layer: int, segment: Segment, track: Track, span: Span) -> Alibi | None:
        """What ALiBi takes off the scores of a segment, in all query heads; None for nothing."""
        slopes = self._layers[layer].slopes
        if slopes is None:
            return None
        wide, device = torch.promote_types(span.key.dtype, torch.float32), span.key.device
        # Adjacent keys stand where their span says.
        rule = Own() if isinstance(track.position, Adjacent) else track.position
        place = (segment.query_position, rule, span.start, span.tokens, wide, device)
        if place not in self._distances:
            keys = torch.arange(span.start, span.start + span.tokens)
            query_at = self._assigned(segment.query_position, self._positions)
            key_at = self._assigned(rule, keys)
            # Differences of integers are exact, wherever in the stream this is.
            self._distances[place] = (
                (query_at - query_at[0]).to(device, wide),
                (key_at - query_at[0]).to(device, wide),
            )
        return Alibi(torch.tensor(slopes, dtype=wide, device=device), *self._distances[place])

    def _lowered(
        self, lse: Tensor, layer: int, segment: Segment, rows: slice | list[int]
    ) -> Tensor:
        """The log-sum-exp ``[B, H, Q]`` of scores with keys that are all at position 0.

        What ALiBi takes off them is the same for all keys, so that it changes no weight.
        """
        slopes = self._layers[layer].slopes
        if slopes is None:
            return lse
        query_at = self._assigned(segment.query_position, self._positions)
        steep = torch.tensor(slopes, dtype=torch.float64)[rows, None]
        return lse - (steep * query_at).to(lse)

    def _assigned(self, rule: Position, positions: Tensor) -> Tensor:
        """Assigned positions, counted from the beginning of the stream (int64)."""
        return rule.assign(positions - self._origin)

    def _note(self, computed_by: str) -> None:
        if self._tally is not None:
            self._tally.attention[computed_by] += 1

    def _views_obstacle(self, tracks: Sequence[str | None], most_ranges: int) -> str | None:
        """Why :meth:`attend` must be called; None if there can be views."""
        state = self._state
        if state.recording:
            return "a store records the tokens"
        if self._observe is not None:
            return "queries and keys are observed"
        if state.searches:
            return "a store is searched"
        if state.most_segments > most_ranges:
            return f"a layer attends to more than {most_ranges} ranges of keys"
        if any(layer.slopes is not None for layer in self._layers):
            return "scores fall with distance (ALiBi)"
        if None in tracks:
            return "the keys of a layer are not kept in exactly one sliding window"
        return None

    def _seen(
        self, cache: LayerCache, segments: Sequence[Segment]
    ) -> Iterator[tuple[Segment, Span]]:
        """The segments of which some query of this pass may see a key, with the cached tokens."""
        for segment in segments:
            span = cache.span(segment.track) if segment.topk is None else None
            if span is not None and self._last - span.start >= segment.nearest:
                yield segment, span

    def _rotate(
        self, rotary: Rotary | None, x: Tensor, position: Position, scale: float = 1.0
    ) -> Tensor:
        rotation = self._rotation(rotary, position, scale, x.dtype, x.device)
        if rotary is None or rotation is None:
            return x if scale == 1.0 else x * scale
        return rotary.apply(x, rotation)

    def _rotation(
        self,
        rotary: Rotary | None,
        position: Position,
        scale: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Rotation | None:
        """A rotation, shared by the layers of one frequency set on one device; None for none."""
        if rotary is None or position.at == 0:
            return None
        wide = phase_dtype(dtype)
        place = (id(rotary), position, scale, wide, device)
        if place not in self._rotations:
            if position.at is None:
                # Rules count from the beginning of the stream; only differences matter.
                assigned = self._assigned(position, self._positions) + self._origin
            else:
                assigned = position.assign(self._positions[:1])
            self._rotations[place] = rotary.rotation(rotary.phases(assigned, wide, device), scale)
        return self._rotations[place]


def _rows(heads: Heads, folds: int = 1) -> slice | list[int]:
    """Places of key heads, or of the ``folds`` query heads that share each of them."""
    if heads is None:
        return slice(None)
    return [head * folds + at for head in heads for at in range(folds)]


def _scale(rotary: Rotary | None, scale: float) -> float:
    """The factor on each score of a layer whose projections ask for ``scale``."""
    return scale if rotary is None else scale * rotary.score_factor
