"""Keys and values of the starting, the surprising and the recent tokens of a stream."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmi_cli.attention.segment import Surprising
from lmi_cli.cache.track import CachedTrack, Span


@dataclass(slots=True)
class _Kept:
    """Tokens in stream order.

    Attributes:
        key: ``[B, Hkv, n, D]``, un-rotated.
        value: ``[B, Hkv, n, Dv]``.
        position: True positions, int64, ``[n]``, on the CPU.
        surprisal: In nats, float32, ``[n]``, on the CPU; 0 where it is not known yet.
    """

    key: Tensor
    value: Tensor
    position: Tensor
    surprisal: Tensor

    def __getitem__(self, chosen: slice | Tensor) -> "_Kept":
        if isinstance(chosen, Tensor):
            at = chosen.to(self.key.device)
            key, value = self.key.index_select(2, at), self.value.index_select(2, at)
        else:
            key, value = self.key[:, :, chosen], self.value[:, :, chosen]
        return _Kept(key, value, self.position[chosen], self.surprisal[chosen])


class SurprisingTokens(CachedTrack):
    """What :class:`Surprising` keeps.

    The keys are kept at position 0. A span says where its tokens stand when no gap is left between
    them, see :class:`~lmi_cli.attention.segment.Adjacent`.

    Args:
        retention: Which tokens.
    """

    def __init__(self, retention: Surprising) -> None:
        self.retention = retention
        self._origin = 0
        self._kept: _Kept | None = None

    def takes(self, count: int) -> int:
        """All of them."""
        return count

    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add tokens of one block; others are dropped before if they are the first of it."""
        new = _Kept(
            key,
            value,
            torch.arange(position, position + key.shape[2]),
            torch.zeros(key.shape[2]),
        )
        kept = self._kept
        if kept is None:
            whole = torch.contiguous_format
            new.key, new.value = (x.clone(memory_format=whole) for x in (key, value))
            self._origin, self._kept = position, new
            return
        if (position - self._origin) % self.retention.block == 0:
            kept = self._without_the_expected(kept, position)
        self._kept = _Kept(
            torch.cat((kept.key, new.key), 2),
            torch.cat((kept.value, new.value), 2),
            torch.cat((kept.position, new.position)),
            torch.cat((kept.surprisal, new.surprisal)),
        )

    def weigh(self, surprisal: Tensor, position: int) -> None:
        """Note the surprisal of the newest tokens."""
        if self._kept is not None:
            known = self._kept.surprisal.clone()
            known[len(known) - len(surprisal) :] = surprisal
            self._kept = replace(self._kept, surprisal=known)

    @property
    def span(self) -> Span | None:
        """The tokens, as if they stood side by side; None before the first one."""
        if self._kept is None:
            return None
        count = self.capacity
        after = int(self._kept.position[-1]) + 1
        return Span(self._kept.key, self._kept.value, 0, count, after - count)

    def truncate(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        if self._kept is not None:
            left = int((self._kept.position < position).sum())
            self._kept = self._kept[:left] if left else None

    def clone(self) -> "SurprisingTokens":
        """A copy that shares its tensors, which are never written to twice."""
        other = SurprisingTokens(self.retention)
        other._origin, other._kept = self._origin, self._kept
        return other

    def save(self) -> dict[str, Tensor]:
        """Keys, values, positions, surprisals, and the position of the first token of all."""
        if self._kept is None:
            return {}
        return {
            "key": self._kept.key,
            "value": self._kept.value,
            "place": self._kept.position.view(1, 1, -1, 1),
            "surprisal": self._kept.surprisal.view(1, 1, -1, 1),
            "origin": torch.tensor(self._origin),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: int) -> None:
        """Restore what :meth:`save` returned."""
        if not tensors:
            return
        place, surprisal = tensors["place"].view(-1).cpu(), tensors["surprisal"].view(-1).cpu()
        kept = _Kept(tensors["key"].contiguous(), tensors["value"].contiguous(), place, surprisal)
        counts = {kept.key.shape[2], kept.value.shape[2], len(place), len(surprisal)}
        self._origin = int(tensors["origin"])
        certain = self.retention.kept(position - 1 - self._origin)
        if sum(stop - start for start, stop in certain) > len(place):
            raise ValueError(f"{len(place):,} tokens, the last at {place[-1:].tolist()}")
        wanted = {at + self._origin for start, stop in certain for at in range(start, stop)}
        most = self.retention.capacity(1) or 0
        if (
            len(counts) != 1
            or not len(place) <= most
            or not wanted <= set(place.tolist())
            or not bool((place[1:] > place[:-1]).all())
            or int(place[0]) < self._origin
            or int(place[-1]) != position - 1
        ):
            raise ValueError(f"{len(place):,} tokens, the last at {place[-1:].tolist()}")
        self._kept = kept

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return 0 if self._kept is None else self._kept.key.nbytes + self._kept.value.nbytes

    @property
    def capacity(self) -> int:
        """Tokens kept."""
        return 0 if self._kept is None else len(self._kept.position)

    def _without_the_expected(self, kept: _Kept, position: int) -> _Kept:
        """What is left when a block begins at ``position``."""
        first = self._origin + self.retention.sinks
        begin = int((kept.position < first).sum())
        end = int((kept.position < position - self.retention.recent).sum())
        if end - begin <= self.retention.tokens:
            return kept
        order = kept.surprisal[begin:end].sort(descending=True, stable=True).indices
        best = order[: self.retention.tokens].sort().values + begin
        count = len(kept.position)
        return kept[torch.cat((torch.arange(begin), best, torch.arange(max(begin, end), count)))]
