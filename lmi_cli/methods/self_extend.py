"""Self-Extend: neighbours at their true distance, all other tokens at that of their groups.

Jin et al., "LLM Maybe LongLM: Self-Extend LLM Context Window Without Tuning", ICML 2024
(arXiv 2401.01325), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Grouped, Recent, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import (
    WINDOW,
    Circumstances,
    Method,
    MethodOption,
    Parameter,
    narrower,
    number,
    reaches_beyond,
)

_WINDOW_SHARE = 4
"""Of the trained length; the published default is 1,024 of 4,096 tokens."""

_GROUP = 8
"""The published default, for a text of unknown length."""


@dataclass(frozen=True)
class SelfExtend(Method):
    """Two levels of attention over all tokens, in one softmax.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    every key before them as if it stood at ``j // group`` and the query at
    ``i // group + window - window // group``.

    Args:
        window: Neighbours in tokens, the query itself included.
        group: Tokens that share a position.

    Raises:
        UsageError: One of them is less than 1.
    """

    window: int
    group: int

    name: ClassVar[str] = "self-extend"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        MethodOption("group", "Tokens beyond the window that share a position."),
    )

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token, the query itself")
        if self.group < 1:
            raise UsageError(f"group {self.group}: the smallest is 1 token")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """A quarter of the trained length, and the smallest groups that leave room.

        A text that the model was trained for is read as the stock model does. For a longer one, the
        largest distance, ``window + (tokens - window) / group``, is at most half-way from the
        window to the trained length. With the default window that is 5/8 of it; the authors advise
        a half to two thirds.
        """
        length, tokens = circumstances.trained_length, circumstances.tokens
        window = min(circumstances.window, max(1, length // _WINDOW_SHARE))
        if tokens is not None and tokens <= circumstances.window:
            window = circumstances.window
        window = number(given, "window", window)
        group = _GROUP
        if tokens is not None:
            group = max(1, -(-(tokens - window) // max(1, (length - window) // 2)))
        return cls(window, number(given, "group", group))

    @classmethod
    def needs_length(cls, given: Mapping[str, Parameter]) -> bool:
        """Unless the user chose the groups."""
        return "group" not in given

    @property
    def local_window(self) -> int | None:
        """No limit."""
        return None

    @property
    def exact_length(self) -> int | None:
        """The neighbours."""
        return self.window

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The neighbours as they are, and every token at the position of its group."""
        near = Track("near", Recent(narrower(self.window, layer.native_window)))
        if not reaches_beyond(self.window, layer):
            return (near,)
        return (near, Track("groups", Recent(layer.native_window), Grouped(self.group)))

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The neighbours, and what lies beyond them."""
        near = Segment("near", farthest=narrower(self.window, layer.native_window))
        if not reaches_beyond(self.window, layer):
            return (near,)
        query = Grouped(self.group, self.window - self.window // self.group)
        return (near, Segment("groups", query, self.window, layer.native_window))
