"""The interface of a track of a layer's cache."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Self

from torch import Tensor


class Span(NamedTuple):
    """Consecutive cached tokens, within larger tensors.

    Attributes:
        key: ``[B, Hkv, capacity, D]``, rotated to the position of the track.
        value: ``[B, Hkv, capacity, Dv]``.
        begin: Column of the first live token.
        tokens: Number of live tokens.
        start: True position of the first.
    """

    key: Tensor
    value: Tensor
    begin: int
    tokens: int
    start: int

    @property
    def live(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the live tokens alone, as views."""
        columns = slice(self.begin, self.begin + self.tokens)
        return self.key[:, :, columns], self.value[:, :, columns]


class CachedTrack(ABC):
    """Keys and values of some tokens of a stream, in one layer.

    Keys arrive rotated to the position of the track. Tensors live on the device of the layer that
    made them.
    """

    @abstractmethod
    def takes(self, count: int) -> int:
        """How many of the next ``count`` tokens are kept; they are the first of them."""

    @abstractmethod
    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add tokens (``[B, Hkv, n, D]``, ``[B, Hkv, n, Dv]``); the first one is at ``position``.

        No more than :meth:`takes` of them may be given.
        """

    @property
    @abstractmethod
    def span(self) -> Span | None:
        """The live tokens; None before the first one."""

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys and values as allocated, ``[B, Hkv, capacity, D]`` and ``[B, Hkv, capacity, Dv]``.

        Raises:
            RuntimeError: There is no token yet.
        """
        span = self.span
        if span is None:
            raise RuntimeError("the track is empty")
        return span.key, span.value

    def reserve(self, count: int, position: int) -> int:
        """Reserve columns for tokens that the caller writes; see :class:`SlidingBuffer`.

        Raises:
            RuntimeError: Tokens of this kind of track can only be appended.
        """
        raise RuntimeError("tokens of this track are appended, not reserved")

    def weigh(self, surprisal: Tensor, position: int) -> None:  # noqa: B027 - most do not ask
        """Note the surprisal of tokens that have been appended.

        Args:
            surprisal: Negative log-likelihood in nats of each token given those before it,
                float32, ``[n]``, on the CPU.
            position: True position of the first of them.
        """

    @abstractmethod
    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""

    @abstractmethod
    def clone(self) -> Self:
        """An independent copy of what the next query sees."""

    @abstractmethod
    def save(self) -> dict[str, Tensor]:
        """Everything that :meth:`restore` needs, by name; empty if no token is kept."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned at a position, in a track without tokens.

        Raises:
            KeyError: A tensor is missing.
            ValueError: These are not the tokens that are kept at that position.
        """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes allocated, live or not."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Tokens allocated, live or not."""
