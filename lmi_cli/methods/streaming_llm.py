"""StreamingLLM: a window and a few starting tokens, at positions within the cache.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024
(arXiv 2309.17453), section 3.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Capped, First, Recent, Segment, Track
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

LEAST_SINKS = 4
"""Starting tokens kept for ever; more bring little (table 2 of the paper)."""


@dataclass(frozen=True)
class StreamingLLM(Method):
    """Attention sinks directly in front of the window.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    the keys ``j < sinks`` with ``i - j >= window`` at the distance that they have in the cache,
    ``min(i, sinks + window - 1) - j``: nothing lies between sinks and window there. The published
    cache of so many recent tokens holds those before the query, so it is one less than ``window``.

    Args:
        window: Tokens, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.

    Raises:
        UsageError: ``window >= 1`` or ``sinks >= 0`` does not hold.
    """

    window: int
    sinks: int

    name: ClassVar[str] = "streaming-llm"
    options: ClassVar[tuple[MethodOption, ...]] = (WINDOW, SINKS)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token, the query itself")
        if self.sinks < 0:
            raise UsageError(f"sinks {self.sinks}: the smallest is 0")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """No fewer sinks than the paper has or the prefix needs; sinks and window share a window.

        So the largest distance is one that the model was trained for.
        """
        sinks = number(given, "sinks", max(LEAST_SINKS, circumstances.prefix_tokens))
        return cls(number(given, "window", max(1, circumstances.window - sinks)), sinks)

    @property
    def local_window(self) -> int | None:
        """The window."""
        return self.window

    @property
    def exact_length(self) -> int | None:
        """Sinks and window: until then nothing has left the cache."""
        return self.sinks + self.window

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The window and the sinks, both rotated to their positions in the stream."""
        window = Track("window", Recent(narrower(self.window, layer.native_window)))
        if self.sinks > 0 and reaches_beyond(self.window, layer):
            return (window, Track("sinks", First(self.sinks)))
        return (window,)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window, and the sinks that have left it."""
        window = Segment("window", farthest=narrower(self.window, layer.native_window))
        if self.sinks > 0 and reaches_beyond(self.window, layer):
            last = Capped(self.sinks + self.window - 1)
            return (window, Segment("sinks", last, nearest=self.window))
        return (window,)
