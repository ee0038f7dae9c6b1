"""What attention must know of one layer of a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a layer can be described where torch is not loaded
    from lmi_cli.attention.rope import Rotary


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One attention layer.

    Attributes:
        index: Zero-based.
        rotary: Its frequencies; None for a layer without position embedding.
        native_window: The layer's own sliding window in tokens, the query included; None if it
            sees everything.
    """

    index: int
    rotary: "Rotary | None" = None
    native_window: int | None = None
