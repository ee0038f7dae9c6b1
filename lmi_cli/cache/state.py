"""The state of a stream: how far it has been read, and what each layer kept."""

from collections.abc import Sequence

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Segment
from lmi_cli.cache.layer import LayerCache
from lmi_cli.cache.store import TokenStore
from lmi_cli.methods.base import Method


class StreamState:
    """All that reading leaves behind: the next position and one cache a layer.

    Args:
        method: Decides what each layer keeps.
        layers: The attention layers of the model.
        chunk: Largest number of tokens read in one forward pass.
        origin: Position of the first token. Only differences of positions matter to the model; a
            large origin exercises a long stream without reading one.

    Attributes:
        segments: What a query of each layer sees.
    """

    def __init__(
        self, method: Method, layers: Sequence[LayerSpec], chunk: int, *, origin: int = 0
    ) -> None:
        self.method = method
        self.chunk = chunk
        self.origin = origin
        self.position = origin
        self._torn = False
        self.stores: tuple[TokenStore, ...] = ()
        self.middle: TokenStore | None = None
        self.caches = [LayerCache(method.retain(layer), chunk) for layer in layers]
        self._layers = tuple(layers)
        # Layers that see alike share one tuple, so that what is derived from it can be shared too.
        alike: dict[tuple[Segment, ...], tuple[Segment, ...]] = {}
        self.segments = [
            alike.setdefault(segments, segments) for segments in map(method.segments, layers)
        ]

    def keep(self, *stores: TokenStore) -> None:
        """Put every token that is read from now on into these stores too."""
        self.stores = stores

    @property
    def tokens(self) -> int:
        """Number of tokens read."""
        return self.position - self.origin

    def fork(self, method: Method | None = None, middle: TokenStore | None = None) -> "StreamState":
        """An independent continuation from here, whose tokens go into no store.

        Args:
            method: Decides what is seen from now on; must keep what this state's method keeps.
            middle: What is searched where the method searches the middle. It is shared.

        Raises:
            RuntimeError: See :meth:`begin_pass`.
        """
        self._require_whole()
        other = StreamState(method or self.method, self._layers, self.chunk, origin=self.origin)
        other.middle = middle
        other.position = self.position
        other.caches = [cache.clone() for cache in self.caches]
        return other

    def begin_pass(self) -> None:
        """Mark the caches as being written to.

        Raises:
            RuntimeError: The last pass did not end, so some layers have its tokens and some do not.
        """
        self._require_whole()
        self._torn = True

    def end_pass(self, count: int) -> None:
        """Mark the caches as complete, ``count`` tokens further."""
        self._torn = False
        self.position += count

    def undo_pass(self) -> None:
        """Take back what a pass that failed has written, so that it can be tried again."""
        for cache in self.caches:
            cache.truncate(self.position, self.tokens)
        for store in self.stores:
            store.truncate(self.position)
        self._torn = False

    @property
    def nbytes(self) -> int:
        """Bytes that all caches take."""
        return sum(cache.nbytes for cache in self.caches)

    @property
    def cached_tokens(self) -> int:
        """Tokens for which the fullest layer has memory allocated."""
        return max((cache.capacity for cache in self.caches), default=0)

    def _require_whole(self) -> None:
        if self._torn:
            raise RuntimeError("this state was left half-written by a pass that failed")
