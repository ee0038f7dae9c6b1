"""A method that only the tests know: neighbours at true distance, farther tokens in groups.

In the manner of Self-Extend (Jin et al. 2024, arXiv 2401.01325) with a bounded cache: keys are kept
twice, at their own and at grouped positions, and starting tokens as sinks. One file, one row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import First, Grouped, Recent, Segment, Track
from lmi_cli.methods import Circumstances, Method, MethodOption


@dataclass(frozen=True)
class Toy(Method):
    """Neighbours, then groups."""

    window: int
    toy_group: int
    toy_reach: int
    toy_topk: int | None = None

    name: ClassVar[str] = "toy"
    options: ClassVar[tuple[MethodOption, ...]] = (
        MethodOption("window", "Neighbours."),
        MethodOption("toy_group", "Tokens that share a position."),
        MethodOption("toy_reach", "Tokens that are seen in groups."),
        MethodOption("toy_topk", "Tokens of the store that are searched for.", fixed=False),
    )

    @classmethod
    def build(cls, given: Mapping[str, int], circumstances: Circumstances) -> Self:
        window = given.get("window", max(1, circumstances.window // 2))
        return cls(window, given.get("toy_group", 4), given.get("toy_reach", 2 * window))

    @property
    def local_window(self) -> int | None:
        return self.window

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        return (
            Track("near", Recent(self.window)),
            Track("far", Recent(self.window + self.toy_reach), Grouped(self.toy_group)),
            Track("begin", First(3), Grouped(self.toy_group)),
        )

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        shifted = Grouped(self.toy_group, self.window - self.window // self.toy_group)
        edge = self.window + self.toy_reach
        segments = (
            Segment("near", farthest=self.window),
            Segment("far", shifted, nearest=self.window, farthest=edge),
            Segment("begin", shifted, nearest=edge),
        )
        if self.toy_topk is None:
            return segments
        return (*segments, Segment("store", nearest=edge, topk=self.toy_topk))

    def may_search(self, layer: LayerSpec) -> bool:
        return True

    def searching(self, given: Mapping[str, int], layers: int) -> Method:
        return replace(self, toy_topk=given.get("toy_topk", 2))
