"""The inputs of attention in one layer, and the inputs of an attention kernel."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.rope import Rotation


class QKV(NamedTuple):
    """Queries, keys and values of new tokens in one layer, as a model's projections give them.

    Attributes:
        query: ``[B, H, Q, D]``, un-rotated.
        key: ``[B, Hkv, Q, D]``, un-rotated.
        value: ``[B, Hkv, Q, Dv]``.
        scale: Factor on each score.
        softcap: See :func:`lmi_cli.attention.kernel.attend`.
        sinks: Learned sinks: of each query head, ``[H]``, a score that joins the softmax and has no
            value; None for a layer without them.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Consecutive keys, and the queries rotated for them.

    Attributes:
        query: ``[B, H, Q, D]``, rotated to its position in this range, the score's scale applied.
        key: ``[B, Hkv, K, D]``, rotated to its position in this range.
        value: ``[B, Hkv, K, Dv]``.
        key_start: True position of the first key.
        nearest: Smallest visible true distance, in tokens.
        farthest: First true distance that is no longer visible; None for no limit.
        alibi: What is taken off the scores of all heads, queries and keys; None for nothing.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    key_start: int
    nearest: int = 0
    farthest: int | None = None
    alibi: Alibi | None = None

    def columns(self, first: int, last: int) -> tuple[int, int]:
        """The half-open range of keys that some query at positions ``first..last`` sees."""
        stop = min(self.key.shape[2], last - self.nearest - self.key_start + 1)
        start = 0
        if self.farthest is not None:
            start = max(0, first - self.farthest + 1 - self.key_start)
        return start, max(start, stop)


class TokenRange(NamedTuple):
    """Consecutive keys that some new token sees, within larger tensors.

    Attributes:
        rotation: Rotations of the queries in this range, with the score's scale: one for each
            token, or one for all; None for none.
        key: ``[1, Hkv, ., D]``, rotated to its position in this range.
        value: ``[1, Hkv, ., D]``.
        begin: Column of the first key.
        keys: Number of keys.
        key_start: True position of the first key.
        nearest: Smallest visible true distance, in tokens.
        farthest: First true distance that is no longer visible; None for no limit.
    """

    rotation: Rotation | None
    key: Tensor
    value: Tensor
    begin: int
    keys: int
    key_start: int
    nearest: int = 0
    farthest: int | None = None


class TokenView(NamedTuple):
    """What new tokens see in one layer, and where their own keys and values go.

    Attributes:
        ranges: The keys that the tokens see, their own included.
        key: ``[1, Hkv, ., D]``; receives the tokens' keys from ``column`` on.
        value: ``[1, Hkv, ., D]``; receives the tokens' values from ``column`` on.
        column: Where keys and values go.
        rotation: Rotations of the tokens' keys, as in ``TokenRange``; None for none.
    """

    ranges: tuple[TokenRange, ...]
    key: Tensor
    value: Tensor
    column: int
    rotation: Rotation | None
