"""The state of a stream: how far it has been read, and what each layer kept."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Segment
from lmi_cli.cache.layer import LayerCache
from lmi_cli.cache.means import StateMeans
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.store import TokenStore
from lmi_cli.methods import Method
from lmi_cli.methods.passes import forgets, pass_room

RECURRENT = "recurrent."
"""Beginning of the names of what recurrent layers carry."""


class StreamState:
    """What reading leaves behind: the next position, and a cache for each layer.

    Args:
        method: Decides what each layer keeps and what a query sees.
        layers: The attention layers of the model.
        chunk: Largest number of tokens read in one forward pass.
        origin: Position of the first token. Only differences of positions matter to the model; a
            large origin exercises a long stream without reading one.
        pool: Where memory that grows with the stream comes from.

    Attributes:
        last_hidden: Final hidden state ``[hidden]`` of the newest token, where the method weighs
            tokens by their surprisal.
        recurrent: What recurrent layers carry, by name: tensors of constant size, which are never
            changed but replaced, so that forks share them. Empty for a model without such layers.
        recording: Stores that record every token that is read.
        means: Averages the final hidden states of all tokens that are read.
        searched: Stores that segments with a top-k search, by name of the segment's track.
        segments: What a query of each layer attends to.
        searches: Whether some segment searches a store.
        most_segments: Largest number of segments of a layer.
    """

    def __init__(
        self,
        method: Method,
        layers: Sequence[LayerSpec],
        chunk: int,
        *,
        origin: int = 0,
        pool: BlockPool | None = None,
    ) -> None:
        self.method = method
        self.chunk = chunk
        self.origin = origin
        self.position = origin
        self.recording: tuple[TokenStore, ...] = ()
        self.means: StateMeans | None = None
        self.searched: Mapping[str, TokenStore] = {}
        self.last_hidden: Tensor | None = None
        self.recurrent: Mapping[str, Tensor] = {}
        self.caches = [LayerCache(method.tracks(layer), chunk, pool) for layer in layers]
        self._torn = False
        self._layers = tuple(layers)
        # Layers that see alike share one tuple, so that what is derived from it can be shared too.
        alike: dict[tuple[Segment, ...], tuple[Segment, ...]] = {}
        self.segments = [
            alike.setdefault(segments, segments) for segments in map(method.segments, layers)
        ]
        self.searches = any(segment.topk is not None for kind in alike for segment in kind)
        self.most_segments = max(map(len, alike), default=0)

    @property
    def tokens(self) -> int:
        """Number of tokens read."""
        return self.position - self.origin

    def fork(
        self, method: Method | None = None, searched: Mapping[str, TokenStore] | None = None
    ) -> "StreamState":
        """An independent continuation, whose tokens are recorded in no store.

        Args:
            method: Decides what is seen from now on; must keep the tracks that this state keeps.
            searched: Stores that the method searches, by name. They are shared, not copied.

        Raises:
            RuntimeError: See :meth:`begin_pass`.
            ValueError: The method keeps other tracks.
        """
        self._require_whole()
        method = method or self.method
        if any(method.tracks(layer) != self.method.tracks(layer) for layer in self._layers):
            raise ValueError(f"{method} keeps other tracks than {self.method}")
        other = StreamState(method, self._layers, self.chunk, origin=self.origin)
        other.searched = searched or {}
        other.position = self.position
        other.caches = [cache.clone() for cache in self.caches]
        other.last_hidden = self.last_hidden
        other.recurrent = self.recurrent
        return other

    def begin_pass(self) -> None:
        """Mark the beginning of a pass, which writes to the caches.

        Raises:
            RuntimeError: The last pass failed, so that only some layers have its tokens.
        """
        self._require_whole()
        self._torn = True

    def end_pass(self, count: int, recurrent: Mapping[str, Tensor] | None = None) -> None:
        """Mark the end of a pass over ``count`` tokens.

        Recurrent layers carry ``recurrent`` behind it; None is what they carried before. Layers
        that attend within chunks forget one that ends with it.
        """
        self._torn = False
        if recurrent is not None:
            self.recurrent = recurrent
        self.position += count
        for layer, cache in zip(self._layers, self.caches, strict=True):
            if layer.chunked and layer.place(self.tokens) == 0:
                cache.clear()

    @property
    def room(self) -> int | None:
        """Tokens that the next pass may have; None for any number."""
        return pass_room(self.method, self._layers, self.tokens)

    def weigh(self, surprisal: Tensor) -> None:
        """Note the surprisal of the tokens of the current pass.

        Args:
            surprisal: In nats, float32, ``[n]``, on the CPU.
        """
        for layer, cache in zip(self._layers, self.caches, strict=True):
            cache.weigh(surprisal, self._position_in(layer))

    def undo_pass(self) -> None:
        """Remove what a failed pass has written, so that it can be tried again."""
        for layer, cache in zip(self._layers, self.caches, strict=True):
            cache.truncate(self._position_in(layer))
        for store in self.recording:
            store.truncate(self.position)
        self._torn = False

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on, which the last pass has read.

        What the window has dropped does not come back; it dropped nothing that a query behind the
        first token of that pass sees.

        Raises:
            RuntimeError: See :meth:`begin_pass`, or the means of the tokens have been recorded, or
                what is kept depends on all that has been read, as a recurrent state does, or on
                where chunks of a layer end.
            ValueError: There are fewer tokens.
        """
        self._require_whole()
        if self.means is not None:
            raise RuntimeError("means of tokens cannot be taken back")
        if forgets(self.method, self._layers) and position != self.position:
            raise RuntimeError(f"{self.method.name} on this model cannot forget what it has read")
        if self.recurrent and position != self.position:
            raise RuntimeError("a recurrent state cannot forget what it has read")
        if not self.origin <= position <= self.position:
            raise ValueError(f"position {position:,} of {self.position:,}")
        if position < self.position:
            self.position = position
            self.undo_pass()

    def save(self) -> dict[str, Tensor]:
        """Everything that :meth:`restore` needs, by name.

        Raises:
            RuntimeError: See :meth:`begin_pass`.
        """
        self._require_whole()
        saved = {
            f"{layer}.{place}": tensor
            for layer, cache in enumerate(self.caches)
            for place, tensor in cache.save().items()
        }
        if self.last_hidden is not None:
            saved["last_hidden"] = self.last_hidden
        saved |= {f"{RECURRENT}{name}": tensor for name, tensor in self.recurrent.items()}
        return saved | {"position": torch.tensor(self.position)}

    def restore(self, tensors: Mapping[str, Tensor], devices: Sequence[torch.device]) -> None:
        """Restore what :meth:`save` returned, in a state that has read nothing.

        Args:
            tensors: By name.
            devices: Of each layer.

        Raises:
            KeyError: A tensor is missing.
            ValueError: What a layer keeps is not what it keeps at the position of the state.
        """
        self.position = int(tensors["position"])
        if (last := tensors.get("last_hidden")) is not None:
            self.last_hidden = last.to(devices[-1]) if devices else last
        by_layer: list[dict[str, Tensor]] = [{} for _ in self.caches]
        recurrent: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            index, _, place = name.partition(".")
            if name.startswith(RECURRENT):
                recurrent[place] = tensor
            elif place:
                by_layer[int(index)][place] = tensor.to(devices[int(index)])
        for layer, cache, saved in zip(self._layers, self.caches, by_layer, strict=True):
            cache.restore(saved, self._position_in(layer))
        self.recurrent = recurrent

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, and of what recurrent layers carry."""
        carried = sum(tensor.nbytes for tensor in self.recurrent.values())
        return carried + sum(cache.nbytes for cache in self.caches)

    @property
    def cached_tokens(self) -> int:
        """Largest number of tokens for which a layer has memory allocated."""
        return max((cache.capacity for cache in self.caches), default=0)

    def _position_in(self, layer: LayerSpec) -> int:
        """The position by which the cache of a layer counts: chunks begin at 0."""
        return layer.place(self.tokens) if layer.chunked else self.position

    def _require_whole(self) -> None:
        if self._torn:
            raise RuntimeError("this state was left half-written by a pass that failed")
