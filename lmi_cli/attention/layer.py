"""What attention needs to know about one layer of a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a layer can be described without loading torch
    from lmi_cli.attention.growth import QueryGrowth
    from lmi_cli.attention.rope import Rotary


ROPE_SCALINGS = ("linear", "dynamic", "yarn", "truncated")
"""Ways of changing rotary frequencies; see :mod:`lmi_cli.attention.scaling`."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """A change of rotary frequencies, for texts beyond the trained length.

    Attributes:
        kind: One of ``ROPE_SCALINGS``.
        factor: How many times longer than the trained length texts may be; ``truncated`` has none.
    """

    kind: str
    factor: int = 1


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One attention layer.

    Attributes:
        index: Zero-based index.
        rotary: Its rotary frequencies; None for a layer without position embedding.
        native_window: The layer's own sliding window in tokens, the query included; None if it
            sees everything.
        key_heads: Number of its key heads.
        slopes: ALiBi (Press et al. 2022, arXiv 2108.12409): of each query head, what is taken off a
            score for each token of distance between the assigned positions of query and key; None
            for a layer without it.
        growth: How its queries grow with their position; None if they do not.
        chunked: Whether ``native_window`` does not slide: the stream is cut into chunks of so many
            tokens, and a query sees what is in its own. Each chunk is a stream of its own for such
            a layer, in which a method begins anew.
    """

    index: int
    rotary: "Rotary | None" = None
    native_window: int | None = None
    key_heads: int = 1
    slopes: tuple[float, ...] | None = None
    growth: "QueryGrowth | None" = None
    chunked: bool = False

    def place(self, tokens: int) -> int:
        """Tokens of the layer's stream behind ``tokens`` of the whole: those of its chunk."""
        if not self.chunked or self.native_window is None:
            return tokens
        return tokens % self.native_window
