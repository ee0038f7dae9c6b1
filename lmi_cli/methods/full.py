"""The stock model's attention: every earlier token at its true distance, in a growing cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Recent, Segment, Track
from lmi_cli.methods.base import Circumstances, Method


@dataclass(frozen=True)
class Full(Method):
    """Attention exactly as the model was trained."""

    name: ClassVar[str] = "full"

    @classmethod
    def build(cls, given: Mapping[str, int], circumstances: Circumstances) -> Self:
        """The method, which has no parameters."""
        return cls()

    @property
    def local_window(self) -> int | None:
        """No limit."""
        return None

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """Every token, or the layer's own sliding window."""
        return (Track("window", Recent(layer.native_window)),)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """All that the layer itself allows."""
        return (Segment("window", farthest=layer.native_window),)
