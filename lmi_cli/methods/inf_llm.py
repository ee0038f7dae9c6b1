"""InfLLM: a window, and the blocks of everything before it that the queries ask for.

Xiao et al., "InfLLM: Training-Free Long-Context Extrapolation for LLMs with an Efficient Context
Memory", NeurIPS 2024 (arXiv 2402.04617), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Blocks, First, Fixed, Lookup, Recent, Segment, Track
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

_SINKS = 128
_BLOCK = 128
_REPRESENTATIVES = 4
"""The published numbers of starting tokens, tokens of a block, and keys that stand for one."""

_LOOKUP = 32
_MOST_PASS = 512
"""The published size of a block of queries, here at most half a window."""


@dataclass(frozen=True)
class InfLLM(Method):
    """A window at true distance; starting tokens and the best blocks at the distance of its end.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and at
    the distance ``window - 1``, from among the others, the first ``sinks``, those in the
    ``top_blocks`` blocks that were looked up last, and those that are in no finished block yet. A
    block is represented by the mean of the ``representatives`` keys of each head that got most
    attention while they were in the window. It is finished when a pass begins at whose first
    token all of it has left the window.

    The authors choose blocks for 512 queries at a time by the mean of these, so that the first of
    them know of the last. Here every ``lookup`` tokens the mean of the last ``lookup`` queries
    chooses.

    Args:
        window: Tokens, the query itself included.
        sinks: Starting tokens that stay visible for ever.
        block_tokens: Tokens of a block.
        top_blocks: Blocks that a query sees.
        representatives: Keys that stand for a block.
        lookup: Tokens between two choices.

    Raises:
        UsageError: One of them is less than 1, or ``sinks`` than 0.
    """

    window: int
    sinks: int
    block_tokens: int
    top_blocks: int
    representatives: int = _REPRESENTATIVES
    lookup: int = _LOOKUP

    name: ClassVar[str] = "inf-llm"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        SINKS,
        MethodOption("block_tokens", "Tokens of a block that can be looked up."),
        MethodOption("top_blocks", "Blocks that a query sees."),
        MethodOption("representatives", "Keys of a head that stand for a block."),
        MethodOption("lookup", "Tokens between two choices of blocks."),
    )

    def __post_init__(self) -> None:
        for option in self.options:
            if (value := getattr(self, option.name)) < option.least:
                raise UsageError(f"{option.flag} {value}: the smallest is {option.least}")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """Half of a window for recent tokens, as published; the other for sinks and blocks.

        The sinks take at most an eighth of it, but no less than the prefix.
        """
        room = circumstances.window
        window = number(given, "window", max(1, room // 2))
        few = max(circumstances.prefix_tokens, min(_SINKS, room // 8))
        sinks = number(given, "sinks", few)
        block = number(given, "block_tokens", max(1, min(_BLOCK, room // 16)))
        blocks = max(1, (room - min(room, window) - sinks) // block)
        return cls(
            window=window,
            sinks=sinks,
            block_tokens=block,
            top_blocks=number(given, "top_blocks", blocks),
            representatives=number(given, "representatives", _REPRESENTATIVES),
            lookup=number(given, "lookup", _LOOKUP),
        )

    @property
    def local_window(self) -> int | None:
        """The window."""
        return self.window

    @property
    def attended_beyond(self) -> int:
        """The best blocks."""
        return self.top_blocks * self.block_tokens

    @property
    def pass_tokens(self) -> int:
        """The multiple of ``lookup`` next to half a window, at most the published size."""
        return max(1, min(_MOST_PASS, self.window // 2) // self.lookup) * self.lookup

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The window, the sinks, and everything, at the beginning of the stream."""
        window = Track("window", Recent(narrower(self.window, layer.native_window)))
        if not reaches_beyond(self.window, layer):
            return (window,)
        blocks = Blocks(
            self.sinks, self.window, self.block_tokens, self.representatives, self.pass_tokens
        )
        tracks = (window, Track("blocks", blocks, Fixed(0)))
        return (*tracks, Track("sinks", First(self.sinks), Fixed(0))) if self.sinks else tracks

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window; beyond it the sinks, what is in no finished block, and the best blocks."""
        window = Segment("window", farthest=narrower(self.window, layer.native_window))
        if not reaches_beyond(self.window, layer):
            return (window,)
        end, lookup = Fixed(self.window - 1), Lookup(self.top_blocks, self.lookup)
        segments = (window, Segment("blocks", end, nearest=self.window, lookup=lookup))
        if not self.sinks:
            return segments
        return (*segments, Segment("sinks", end, nearest=self.window))
