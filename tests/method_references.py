"""The methods by their definitions: for every pair of tokens, whether it is seen, and how far off.

Dense, in float64, written from the papers alone; neither segments nor tracks appear here.
LM-Infinite has its own reference, in ``reference.py``; the one with dense layers builds on it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from reference import Lambda, lowered, weights_of
from torch import Tensor


class Pairwise(ABC):
    """A method that shows a query ``i`` some keys ``j``, each at a distance of its own.

    ``window`` is the length of the longest text that is read as the stock model reads it.
    """

    window: int

    def frequencies(self, own: Tensor, native: int | None) -> tuple[Tensor, float]:
        """Rotary frequencies of a layer whose own ones are ``own``, and a factor on its scores."""
        return own, 1.0

    @abstractmethod
    def distance(self, i: int, j: int, native: int | None) -> int | None:
        """Distance at which a query sees a key, ``j <= i``; None if it does not.

        ``native`` is the layer's own sliding window.
        """

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

        Each query is rotated anew for each key, which stays at position 0.
        """
        heads, count, size = query.shape
        seen = torch.zeros(count, count, dtype=torch.bool)
        distances = torch.zeros(count, count, dtype=torch.long)
        for i in range(count):
            for j in range(i + 1):
                distance = self.distance(i, j, native)
                if distance is not None:
                    seen[i, j], distances[i, j] = True, distance
        pairs = query[:, :, None].expand(heads, count, count, size).flatten(1, 2)
        turned = turn(pairs, distances.flatten()).view(heads, count, count, size)
        scores = (turned * key[:, None]).sum(-1) * scale
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        scores = lowered(scores, slopes, distances).masked_fill(~seen, -math.inf)
        return weights_of(scores, sinks) @ value


@dataclass(frozen=True)
class Everything(Pairwise):
    """The stock model: every earlier token, at its distance."""

    window: int = 10**6

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        return i - j if native is None or i - j < native else None


@dataclass(frozen=True)
class Window(Everything):
    """Truncation: a text is no longer than the window; beyond it, the oldest are forgotten."""

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        return super().distance(i, j, native) if i - j < self.window else None


class Streaming(Pairwise):
    """StreamingLLM as its paper tells it: a cache from which tokens are evicted one by one.

    Before a token is read, the cache holds the first ``sinks`` and the ``recent`` last tokens. The
    position of a token is its place in the cache, that of the new one is behind it (section 3.2:
    with tokens 0, 1, 2, 3, 6, 7, 8 in the cache, they and token 9 have positions 0 to 7). A layer
    with a window of its own that is no wider keeps it and sees nothing beyond.
    """

    def __init__(self, sinks: int, recent: int) -> None:
        self._sinks, self._recent = sinks, recent
        self.window = sinks + recent + 1

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        if native is not None and native <= self._recent + 1:
            return i - j if i - j < native else None
        cache: list[int] = []
        for token in range(i):
            cache.append(token)
            if len(cache) > self._sinks + self._recent:
                del cache[self._sinks]
        cache.append(i)
        return cache.index(i) - cache.index(j) if j in cache else None


@dataclass(frozen=True)
class Groups(Pairwise):
    """Self-Extend: neighbours, and beyond them floored positions (section 3 of its paper)."""

    window: int
    group: int

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        if native is not None and i - j >= native:
            return None
        if i - j < self.window:
            return i - j
        shift = self.window - math.floor(self.window / self.group)
        return math.floor(i / self.group) + shift - math.floor(j / self.group)


@dataclass(frozen=True)
class Capped(Pairwise):
    """Every earlier token that the layer itself sees; beyond the window, all at one distance."""

    window: int
    ceiling: int

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        if native is not None and i - j >= native:
            return None
        return i - j if i - j < self.window else self.ceiling


@dataclass(frozen=True)
class Mixed(Lambda):
    """LM-Infinite, where some layers and some key heads (layer, head) of others see everything."""

    layers: tuple[int, ...] = ()
    heads: tuple[tuple[int, int], ...] = ()

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        turn: Callable[[Tensor, Tensor], Tensor],
        *,
        layer: int = 0,
        folds: int = 1,
        slopes: Tensor | None = None,
        sinks: Tensor | None = None,
        **how: Any,
    ) -> Tensor:
        """The heads that share a key head, one group after the other."""
        groups = []
        for head, parts in enumerate(
            zip(*(x.split(folds) for x in (query, key, value)), strict=True)
        ):
            dense = layer in self.layers or (layer, head) in self.heads
            attend = Capped(self.window, self.ceiling).attention if dense else super().attention
            mine = slice(head * folds, (head + 1) * folds)
            of_heads = {
                name: None if numbers is None else numbers[mine]
                for name, numbers in (("slopes", slopes), ("sinks", sinks))
            }
            groups.append(attend(*parts, turn, layer=layer, **of_heads, **how))
        return torch.cat(groups)


@dataclass(frozen=True)
class Rescaled(Everything):
    """The stock model with other frequencies; the small models have a trained length of 128."""

    kind: str = ""
    factor: int = 1
    trained: int = 128

    def frequencies(self, own: Tensor, native: int | None) -> tuple[Tensor, float]:
        if native is not None and native <= self.trained:
            return own, 1.0
        before = own.double().tolist()
        after = [self._changed(index, f, before) for index, f in enumerate(before)]
        cooler = 0.1 * math.log(self.factor) + 1 if self.kind == "yarn" else 1.0
        return torch.tensor(after, dtype=torch.float64).float(), cooler**2

    def _changed(self, index: int, frequency: float, all_of_them: list[float]) -> float:
        count, turns = len(all_of_them), frequency * self.trained / (2 * math.pi)
        if self.kind == "linear":
            return frequency / self.factor
        if self.kind == "dynamic":
            return frequency * self.factor ** (-index / (count - 1))
        if self.kind == "yarn":
            base = all_of_them[-1] ** (-count / (count - 1))

            def index_of(turns: float) -> float:
                return count * math.log(self.trained / (turns * 2 * math.pi), base)

            low, high = max(0, math.floor(index_of(32))), min(2 * count - 1, math.ceil(index_of(1)))
            share = min(1.0, max(0.0, (index - low) / max(high - low, 0.001)))
            return share * frequency / self.factor + (1 - share) * frequency
        if turns >= 1:
            return frequency
        return 2 * math.pi / (16 * self.trained) if turns >= 1 / 8 else 0.0
