"""The stock model's attention: every earlier token at its true distance, in a growing cache."""

from dataclasses import dataclass
from typing import ClassVar

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Region, Segment
from lmi_cli.methods.base import Retention
from lmi_cli.methods.cachesize import window_capacity


@dataclass(frozen=True, slots=True)
class Full:
    """Attention exactly as the model was trained."""

    name: ClassVar[str] = "full"

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """One segment: all that the layer itself allows."""
        return (Segment(Region.WINDOW, farthest=layer.native_window),)

    def retain(self, layer: LayerSpec) -> Retention:
        """Everything, or the layer's own sliding window."""
        return Retention(sinks=0, window=layer.native_window)

    def bound(self, chunk: int, layer: LayerSpec) -> int | None:
        """None, unless the layer has its own sliding window."""
        return None if layer.native_window is None else window_capacity(layer.native_window, chunk)

    def parameters(self) -> dict[str, int]:
        """No parameters."""
        return {}
