"""The stock model's attention: every earlier token at its true distance, in a growing cache.

Beyond the trained length it can be given other rotary frequencies: linear (position interpolation,
Chen et al. 2023, arXiv 2306.15595), dynamic NTK and YaRN (Peng et al., "YaRN: Efficient Context
Window Extension of Large Language Models", ICLR 2024, arXiv 2309.00071), or the truncated basis
(Pal et al. 2023, "Giraffe: Adventures in Expanding Context Lengths in LLMs", arXiv 2308.10882).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import ROPE_SCALINGS, LayerSpec, RopeScaling
from lmi_cli.attention.segment import Recent, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Circumstances, Method, MethodOption, Parameter

_FACTOR = 4
"""For a text of unknown length."""

_NO_FACTOR = "truncated"


@dataclass(frozen=True)
class Full(Method):
    """Attention as the model was trained, or with other rotary frequencies.

    Args:
        rope_scaling: How the frequencies are changed; None leaves them.
        rope_factor: How many times longer than the trained length texts may be; 1 changes nothing.

    Raises:
        UsageError: There is a factor and nothing to apply it to, or no such scaling.
    """

    rope_scaling: str | None = None
    rope_factor: int | None = None

    name: ClassVar[str] = "full"
    options: ClassVar[tuple[MethodOption, ...]] = (
        MethodOption("rope_scaling", "Change of rotary frequencies for a long text: "
                     f"{', '.join(ROPE_SCALINGS)}.", choices=ROPE_SCALINGS),
        MethodOption("rope_factor", "Times the trained length that scaled frequencies are for."),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.rope_factor is not None and self.rope_scaling in (None, _NO_FACTOR):
            raise UsageError(
                f"rope-factor {self.rope_factor} has no meaning "
                + ("without --rope-scaling" if self.rope_scaling is None else "for truncated")
            )
        if self.rope_scaling is not None and self.rope_scaling not in ROPE_SCALINGS:
            raise UsageError(f"unknown rope-scaling {self.rope_scaling!r}")
        if self.rope_factor is not None and self.rope_factor < 1:
            raise UsageError(f"rope-factor {self.rope_factor}: the smallest is 1")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """The smallest factor by which the text is not beyond what the frequencies are for."""
        scaling, factor = given.get("rope_scaling"), given.get("rope_factor")
        if cls.needs_length(given):
            tokens, length = circumstances.tokens, circumstances.trained_length
            factor = _FACTOR if tokens is None else max(1, -(-tokens // length))
        return cls(
            None if scaling is None else str(scaling), None if factor is None else int(factor)
        )

    @classmethod
    def needs_length(cls, given: Mapping[str, Parameter]) -> bool:
        """For a factor that the user did not choose."""
        return given.get("rope_scaling") not in (None, _NO_FACTOR) and "rope_factor" not in given

    @property
    def local_window(self) -> int | None:
        """No limit."""
        return None

    @property
    def exact_length(self) -> int | None:
        """No limit, unless the frequencies are others."""
        return None if self.rope_change is None else 0

    @property
    def rope_change(self) -> RopeScaling | None:
        """The scaling, unless it changes nothing."""
        if self.rope_scaling is None or self.rope_factor == 1:
            return None
        return RopeScaling(self.rope_scaling, self.rope_factor or 1)

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """Every token, or the layer's own sliding window."""
        return (Track("window", Recent(layer.native_window)),)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """All that the layer itself allows."""
        return (Segment("window", farthest=layer.native_window),)
