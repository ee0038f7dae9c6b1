"""LM-Infinite: a window at true distance and a few starting tokens at one capped distance.

Han et al., "LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models",
NAACL 2024 (arXiv 2308.16137), section 3.
"""

from dataclasses import dataclass
from typing import ClassVar

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Fixed, Region, Segment
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Retention, visible_window
from lmi_cli.methods.cachesize import window_capacity


@dataclass(frozen=True, slots=True)
class LMInfinite:
    """Lambda-shaped attention with a distance ceiling.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    the keys ``j < sinks`` with ``i - j >= window`` all at distance ``ceiling``.

    Args:
        window: Tokens, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.
        ceiling: Distance, in tokens, at which the starting tokens are seen; at least ``window``.

    Raises:
        UsageError: ``1 <= window <= ceiling`` or ``sinks >= 0`` does not hold.
    """

    window: int
    sinks: int
    ceiling: int

    name: ClassVar[str] = "lm-infinite"

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

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window, and the sinks that have left it.

        A layer whose own sliding window is no wider than ours was trained to see nothing beyond
        it, so it keeps its window and gets no sinks.
        """
        window = visible_window(self.window, layer.native_window)
        recent = Segment(Region.WINDOW, farthest=window)
        if not self._has_sinks(layer):
            return (recent,)
        sinks = Segment(
            Region.SINKS,
            query_position=Fixed(self.ceiling),
            key_position=Fixed(0),
            nearest=self.window,
        )
        return (sinks, recent)

    def retain(self, layer: LayerSpec) -> Retention:
        """The sinks and the window."""
        sinks = self.sinks if self._has_sinks(layer) else 0
        return Retention(sinks, visible_window(self.window, layer.native_window))

    def bound(self, chunk: int, layer: LayerSpec) -> int | None:
        """Sinks, window and the room in which the window slides."""
        keep = self.retain(layer)
        return keep.sinks + window_capacity(keep.window or self.window, chunk)

    def parameters(self) -> dict[str, int]:
        """Window, sinks and ceiling."""
        return {"window": self.window, "sinks": self.sinks, "ceiling": self.ceiling}

    def _has_sinks(self, layer: LayerSpec) -> bool:
        narrower = layer.native_window is not None and layer.native_window <= self.window
        return self.sinks > 0 and not narrower
