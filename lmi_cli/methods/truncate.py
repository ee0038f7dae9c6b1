"""Truncation: a part of the text is read as if it were the whole.

This is what a model with a fixed context gives, and what LM-Infinite is compared with (Han et al.,
NAACL 2024, arXiv 2308.16137, table 2). LongBench (Bai et al., ACL 2024, arXiv 2308.14508) leaves
out the middle instead of the beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Recent, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import (
    WINDOW,
    Circumstances,
    Method,
    MethodOption,
    Parameter,
    Truncation,
    narrower,
    number,
)

SIDES = ("left", "middle")
"""Parts that can be left out."""


@dataclass(frozen=True)
class Truncate(Method):
    """The stock model's attention, over the part of a text that fits with question and answer.

    Args:
        window: Tokens of the longest sequence: prompt, part of the text, question and answer.
        truncation_side: What is left out of a longer text; see ``SIDES``.

    Raises:
        UsageError: The window is empty, or there is no such side.
    """

    window: int
    truncation_side: str = SIDES[0]

    name: ClassVar[str] = "truncate"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        MethodOption("truncation_side", f"What truncate leaves out: {' or '.join(SIDES)}.",
                     choices=SIDES),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token")
        if self.truncation_side not in SIDES:
            raise UsageError(f"unknown truncation-side {self.truncation_side!r}")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """The trained length, and the end of the text."""
        window = number(given, "window", circumstances.trained_length)
        return cls(window, str(given.get("truncation_side", SIDES[0])))

    @classmethod
    def needs_length(cls, given: Mapping[str, Parameter]) -> bool:
        """What is left out is known only at the end."""
        return True

    @property
    def local_window(self) -> int | None:
        """The window; only a long conversation about the text goes beyond it."""
        return self.window

    @property
    def truncation(self) -> Truncation | None:
        """What of a text is read."""
        return Truncation(self.window, middle=self.truncation_side == "middle")

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The window, or the layer's own."""
        return (Track("window", Recent(narrower(self.window, layer.native_window))),)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """All of it."""
        return (Segment("window", farthest=narrower(self.window, layer.native_window)),)
