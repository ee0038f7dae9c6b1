"""LM-Infinite: a window at true distance and a few starting tokens at one capped distance.

Han et al., "LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models",
NAACL 2024 (arXiv 2308.16137), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import SEARCHES, First, Fixed, Recent, Search, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import (
    SINKS,
    WINDOW,
    Circumstances,
    Method,
    MethodOption,
    Parameter,
    narrower,
    number,
    reaches_beyond,
)

LEAST_SINKS = 10
"""Starting tokens kept for ever, at least (section 5 of the paper)."""

# Shares of the whole, after the paper's 5 of 4,096 tokens, layer 4 of 32 and half the ceiling.
_TOPK = 32
_FROM_LAYER_SHARE = 8
_DISTANCE_SHARE = 4

_MOST_PERCENT = 100
_PERCENT = {"exact": _MOST_PERCENT, "pruned": 5, "clusters": 10}
"""Of the stored keys, how many are scored; ``docs/memory.md`` has the measurements."""


@dataclass(frozen=True)
class LMInfinite(Method):
    """Lambda-shaped attention with a distance ceiling.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    the keys ``j < sinks`` with ``i - j >= window`` all at distance ``ceiling``.

    Args:
        window: Tokens, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.
        ceiling: Distance, in tokens, at which the starting tokens are seen; at least ``window``.
        memory_topk: Tokens between sinks and window that a query head may attend to (section 3.3);
            None leaves them unseen, as they are while the document is read.
        memory_from_layer: First layer, zero-based, whose queries search for them.
        memory_distance: The one distance, in tokens, at which they are scored and attended to.
        memory_search: How they are found; see :class:`Search`.
        memory_percent: Of a hundred stored tokens, how many a search scores one by one.

    Raises:
        UsageError: ``1 <= window <= ceiling`` or ``sinks >= 0`` does not hold, the distance of
            the memory is beyond the ceiling, or there is no such search.
    """

    window: int
    sinks: int
    ceiling: int
    memory_topk: int | None = None
    memory_from_layer: int | None = None
    memory_distance: int | None = None
    memory_search: str | None = None
    memory_percent: int | None = None

    name: ClassVar[str] = "lm-infinite"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        SINKS,
        MethodOption("ceiling", "Distance at which the starting tokens are seen."),
        MethodOption("memory_topk", "Tokens of the store that a query head attends to.",
                     fixed=False),
        MethodOption("memory_from_layer", "First layer that searches the store.", least=0,
                     fixed=False),
        MethodOption("memory_distance", "Distance at which tokens of the store are seen.",
                     fixed=False),
        MethodOption("memory_search", "How these tokens are found: exact scores all of them, "
                     "pruned the best chunks, clusters the best clusters of similar keys.",
                     choices=SEARCHES, fixed=False),
        MethodOption("memory_percent", "Of a hundred stored tokens, how many pruned and clusters "
                     "score one by one.", fixed=False),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token, the query itself")
        if self.ceiling < self.window:
            raise UsageError(
                f"ceiling {self.ceiling} is below the window {self.window}",
                hint="starting tokens cannot stand nearer than the window; raise --ceiling",
            )
        if self.sinks < 0:
            raise UsageError(f"sinks {self.sinks}: the smallest is 0")
        if (self.memory_distance or 0) > self.ceiling:
            raise UsageError(
                f"memory-distance {self.memory_distance} is beyond the ceiling of {self.ceiling}"
            )
        _search(self.parameters())

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """Ceiling at the window, and no fewer sinks than the paper has or the prefix needs."""
        _search(given)  # which refuses what cannot be searched before anything is read
        most = circumstances.window
        window = number(given, "window", min(most, number(given, "ceiling", most)))
        return cls(
            window=window,
            sinks=number(given, "sinks", max(LEAST_SINKS, circumstances.prefix_tokens)),
            ceiling=number(given, "ceiling", window),
        )

    @property
    def local_window(self) -> int | None:
        """The window."""
        return self.window

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The window, and the sinks rotated to the stream's first position."""
        window = Track("window", Recent(narrower(self.window, layer.native_window)))
        if self.sinks > 0 and self.may_search(layer):
            return (window, Track("sinks", First(self.sinks), Fixed(0)))
        return (window,)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window, the sinks that have left it, and the middle if it is searched."""
        segments = [Segment("window", farthest=narrower(self.window, layer.native_window))]
        if self.sinks > 0 and self.may_search(layer):
            segments.append(Segment("sinks", Fixed(self.ceiling), nearest=self.window))
        if (
            self.memory_topk is not None
            and layer.index >= (self.memory_from_layer or 0)
            and self.may_search(layer)
        ):
            distance = Fixed(self.memory_distance or self.ceiling)
            segments.append(
                Segment(
                    "store",
                    distance,
                    nearest=self.window,
                    topk=self.memory_topk,
                    search=_search(self.parameters()),
                )
            )
        return tuple(segments)

    def may_search(self, layer: LayerSpec) -> bool:
        """Whether the layer sees beyond our window."""
        return reaches_beyond(self.window, layer)

    def searching(self, given: Mapping[str, Parameter], layers: int) -> Method:
        """With the middle searched; see ``docs/memory.md`` for the defaults."""
        search = _search(given)
        return replace(
            self,
            memory_topk=number(given, "memory_topk", _TOPK),
            memory_from_layer=number(given, "memory_from_layer", layers // _FROM_LAYER_SHARE),
            memory_distance=number(
                given, "memory_distance", max(1, self.ceiling // _DISTANCE_SHARE)
            ),
            memory_search=search.kind,
            memory_percent=None if search == Search() else search.percent,
        )


def _search(given: Mapping[str, Parameter]) -> Search:
    """The search that parameters describe; by default every key is scored.

    Raises:
        UsageError: There is no such search.
    """
    kind = str(given.get("memory_search", SEARCHES[0]))
    if kind not in SEARCHES:
        raise UsageError(f"unknown memory-search {kind!r}", hint="one of " + ", ".join(SEARCHES))
    percent = number(given, "memory_percent", _PERCENT[kind])
    if not 1 <= percent <= _MOST_PERCENT:
        raise UsageError(f"memory-percent {percent}: the range is 1 to {_MOST_PERCENT}")
    if kind == SEARCHES[0] and percent != _PERCENT[kind]:
        raise UsageError(
            f"memory-percent {percent}: an exact search scores all stored tokens",
            hint="choose --memory-search clusters or pruned",
        )
    return Search(kind, percent)
