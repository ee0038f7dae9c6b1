"""LM-Infinite: a window at true distance and a few starting tokens at one capped distance.

Han et al., "LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models",
NAACL 2024 (arXiv 2308.16137), section 3.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Fixed, Region, Segment
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Retention, visible_window
from lmi_cli.methods.cachesize import window_capacity


@dataclass(frozen=True, slots=True)
class Memory:
    """The middle of the document, searched by each query head (section 3.3 of the paper).

    Args:
        topk: Tokens that a query head may attend to.
        from_layer: First layer, zero-based, that does.
        distance: The one distance, in tokens, at which they are scored and attended to.

    Raises:
        UsageError: A number is out of range.
    """

    topk: int
    from_layer: int
    distance: int

    def __post_init__(self) -> None:
        if self.topk < 1:
            raise UsageError(f"memory-topk {self.topk}: the smallest is 1", hint="or --no-memory")
        if self.from_layer < 0:
            raise UsageError(f"memory-from-layer {self.from_layer}: the first layer is 0")
        if self.distance < 1:
            raise UsageError(f"memory-distance {self.distance}: the smallest is 1 token")


@dataclass(frozen=True, slots=True)
class LMInfinite:
    """Lambda-shaped attention with a distance ceiling.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    the keys ``j < sinks`` with ``i - j >= window`` all at distance ``ceiling``.

    Args:
        window: Tokens, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.
        ceiling: Distance, in tokens, at which the starting tokens are seen; at least ``window``.
        memory: How the tokens between sinks and window are searched; None leaves them unseen, as
            they are while the document is read.

    Raises:
        UsageError: ``1 <= window <= ceiling`` or ``sinks >= 0`` does not hold, or the memory stands
            farther than the ceiling.
    """

    window: int
    sinks: int
    ceiling: int
    memory: Memory | None = None

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
        if self.memory is not None and self.memory.distance > self.ceiling:
            raise UsageError(
                f"memory-distance {self.memory.distance} is beyond the ceiling of {self.ceiling}"
            )

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window, the sinks that have left it, and the middle if it is searched.

        A layer whose own sliding window is no wider than ours was trained to see nothing beyond
        it, so it keeps its window and gets no sinks.
        """
        window = visible_window(self.window, layer.native_window)
        segments = [Segment(Region.WINDOW, farthest=window)]
        if self.sinks > 0 and self.reaches_back(layer):
            segments.append(
                Segment(
                    Region.SINKS,
                    query_position=Fixed(self.ceiling),
                    key_position=Fixed(0),
                    nearest=self.window,
                )
            )
        if self.memory is not None and self.searches(layer):
            segments.append(
                Segment(
                    Region.MIDDLE,
                    query_position=Fixed(self.memory.distance),
                    key_position=Fixed(0),
                    nearest=self.window,
                    topk=self.memory.topk,
                )
            )
        return tuple(segments)

    def searches(self, layer: LayerSpec) -> bool:
        """Whether queries of this layer search the middle."""
        memory = self.memory
        deep = memory is not None and layer.index >= memory.from_layer
        return deep and self.reaches_back(layer)

    def retain(self, layer: LayerSpec) -> Retention:
        """The sinks and the window."""
        sinks = self.sinks if self.reaches_back(layer) else 0
        return Retention(sinks, visible_window(self.window, layer.native_window))

    def bound(self, chunk: int, layer: LayerSpec) -> int | None:
        """Sinks, window and the room in which the window slides."""
        keep = self.retain(layer)
        return keep.sinks + window_capacity(keep.window or self.window, chunk)

    def parameters(self) -> dict[str, int]:
        """Window, sinks, ceiling, and those of the memory."""
        named = {"window": self.window, "sinks": self.sinks, "ceiling": self.ceiling}
        if self.memory is not None:
            named |= {f"memory_{name}": value for name, value in asdict(self.memory).items()}
        return named

    def reaches_back(self, layer: LayerSpec) -> bool:
        """Whether the layer sees beyond our window: it has none of its own that is no wider."""
        return layer.native_window is None or layer.native_window > self.window
