"""Methods that choose what is seen by what it says, from their definitions.

These are in the docstrings of ``SirLLM`` and ``InfLLM``. Dense, in float64, token by token.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from method_references import Pairwise
from numpy.typing import NDArray
from reference import lowered, weights_of
from torch import Tensor


class Surprise(Pairwise):
    """SirLLM: a cache from which tokens are dropped every ``window // 4`` tokens.

    It does not know the logits: they are told, and what is seen follows from them. So it has to be
    run again until nothing changes. With ``certain``, only what is kept whatever the logits
    counts.
    """

    def __init__(self, sinks: int, tokens: int, window: int, *, certain: bool = False) -> None:
        self._sinks, self._tokens, self._width, self._certain = sinks, tokens, window, certain
        self._block = max(1, window // 4)
        self.window = (sinks + tokens + window) // self._block * self._block
        self._surprisal: list[float] = []
        self._caches: list[list[int]] = []

    def told(self, logits: Tensor, ids: NDArray[np.int32]) -> "Surprise":
        """The same, for tokens with these logits ``[n, vocab]``."""
        losses = -logits.log_softmax(-1)
        return self.of([
            math.inf, *(float(losses[at - 1, ids[at]]) for at in range(1, len(ids)))
        ])  # fmt: skip

    def of(self, surprisal: list[float]) -> "Surprise":
        """The same, for tokens that are so surprising."""
        other = Surprise(self._sinks, self._tokens, self._width)
        other._surprisal = surprisal
        return other

    def behind(self, tokens: int) -> "Surprise":
        """The same, for a text that begins after so many of these tokens."""
        return self.of(self._surprisal[tokens:])

    def distance(self, i: int, j: int, native: int | None) -> int | None:
        if native is not None and native <= self._sinks + self._tokens + self._width:
            return i - j if i - j < native else None
        cache = self._cache_of(i)
        return cache.index(i) - cache.index(j) if j in cache else None

    def _cache_of(self, i: int) -> list[int]:
        """What is kept when token ``i`` is read, itself included."""
        while len(self._caches) <= i:
            token = len(self._caches)
            cache = [*(self._caches[-1] if self._caches else []), token]
            recent = token - self._width + self._block
            between = [t for t in cache if self._sinks <= t < recent]
            if token % self._block == 0 and recent - self._sinks > self._tokens:
                worth = {t: self._surprisal[t] if self._surprisal else 0.0 for t in between}
                kept = sorted(between, key=lambda t: (-worth[t], t))[: self._tokens]
                dropped = set(between) - (set() if self._certain else set(kept))
                cache = [t for t in cache if t not in dropped]
            self._caches.append(cache)
        return self._caches[i]


class Looking:
    """InfLLM, with its pass and its choices as its docstring has them."""

    def __init__(
        self, window: int, sinks: int, block: int, best: int, representatives: int, every: int
    ) -> None:
        self.window, self._sinks, self._block, self._best = window, sinks, block, best
        self._representatives, self._every = representatives, every
        self._pass = max(1, min(512, window // 2) // every) * every

    def frequencies(self, own: Tensor, native: int | None) -> tuple[Tensor, float]:
        return own, 1.0

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
        """Attention ``[H, n, Dv]`` of un-rotated ``[H, n, D]``; ``turn(x, positions)`` rotates."""
        heads, count, _ = query.shape
        groups = [list(range(first, first + folds)) for first in range(0, heads, folds)]
        narrow = native is not None and native <= self.window
        own, end = torch.arange(count), torch.full((count,), self.window - 1)
        near = turn(query, own) @ turn(key, own).mT * scale
        far_query = turn(query, end)
        far = far_query @ key.mT * scale
        if softcap is not None:
            near, far = softcap * (near / softcap).tanh(), softcap * (far / softcap).tanh()
        near = lowered(near, slopes, own[:, None] - own)
        far = lowered(far, slopes, self.window - 1)
        mass = [torch.zeros(count, dtype=torch.float64) for _ in groups]
        means: list[list[Tensor]] = [[] for _ in groups]
        chosen: list[int] = []
        output = torch.zeros(heads, count, value.shape[-1], dtype=value.dtype)
        for i in range(count):
            if i % self._pass == 0:
                self._finish(i, key, groups, mass, means)
            finished = len(means[0])
            if i % self._every == 0:
                asked = far_query[:, max(0, i - self._every + 1) : i + 1].mean(1)
                worth = [
                    sum(float(asked[h] @ means[g][b]) for g, hs in enumerate(groups) for h in hs)
                    for b in range(finished)
                ]
                chosen = sorted(range(finished), key=lambda b: (-worth[b], b))[: self._best]
            for h in range(heads):
                scores = torch.full((i + 1,), -math.inf, dtype=query.dtype)
                for j in range(i + 1):
                    at = (j - self._sinks) // self._block
                    if i - j < (min(self.window, native) if native else self.window):
                        scores[j] = near[h, i, j]
                    elif narrow:
                        continue
                    elif j < self._sinks or at >= finished or at in chosen:
                        scores[j] = far[h, i, j]
                sink = None if sinks is None else sinks[h : h + 1]
                weights = weights_of(scores[None, None], sink)[0, 0]
                output[h, i] = weights @ value[h, : i + 1]
                group = next(g for g, members in enumerate(groups) if h in members)
                first = max(0, i - self.window + 1)
                mass[group][first : i + 1] += weights[first:]
        return output

    def _finish(
        self,
        position: int,
        key: Tensor,
        groups: list[list[int]],
        mass: list[Tensor],
        means: list[list[Tensor]],
    ) -> None:
        while (end := self._sinks + (len(means[0]) + 1) * self._block) <= (
            position - self.window + 1
        ):
            for g, members in enumerate(groups):
                block = mass[g][end - self._block : end]
                order = sorted(range(self._block), key=lambda at: -float(block[at]))
                best = order[: self._representatives]
                keys = key[members[0], end - self._block : end][best]
                means[g].append(keys.mean(0))


def told_logits(
    logits_of: Callable[[Surprise], Tensor], method: Surprise, ids: NDArray[np.int32]
) -> Tensor:
    """Logits of a method that depends on them: those at which nothing changes any more."""
    logits = logits_of(method)
    for _ in range(len(ids)):
        previous, logits = logits, logits_of(method.told(logits, ids))
        if torch.equal(previous, logits):
            return logits
    raise AssertionError("the logits do not settle")
