"""What a model with recurrent layers does by itself: its state carries what it has read.

State-space models and linear attention (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with
Selective State Spaces", arXiv 2312.00752; Peng et al. 2023, "RWKV: Reinventing RNNs for the
Transformer Era", arXiv 2305.13048) keep a state of constant size, whatever the length of the text.
Attention layers of a hybrid see every earlier token, as in the stock model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Recent, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Circumstances, Method, Parameter


@dataclass(frozen=True)
class Native(Method):
    """The stock model, whose recurrent layers carry a state."""

    name: ClassVar[str] = "native"

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """There is nothing to choose.

        Raises:
            UsageError: The model is known to have no recurrent layers.
        """
        if circumstances.recurrent is False:
            raise UsageError(
                "--method native is for models with recurrent layers, and this one has none",
                hint="--method full is its own attention",
            )
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
