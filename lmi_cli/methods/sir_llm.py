"""SirLLM: a window, and the most surprising of the tokens before it.

Yao et al., "SirLLM: Streaming Infinite Retentive LLM", ACL 2024 (arXiv 2405.12528), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import Adjacent, Recent, Segment, Surprising, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import (
    SINKS,
    WINDOW,
    Circumstances,
    Method,
    MethodOption,
    Parameter,
    number,
    reaches_beyond,
)
from lmi_cli.methods.streaming_llm import LEAST_SINKS

_BLOCK_SHARE = 4
"""Of the window: tokens between two decisions."""


@dataclass(frozen=True)
class SirLLM(Method):
    """Attention to what the cache keeps, at positions within it.

    Whenever the number of tokens read is a multiple of a quarter of the window, rounded down, the
    cache keeps the first ``sinks``, the most recent three quarters of a window, and of the
    tokens between the ``surprising`` ones with the largest negative log-likelihood. Distances are
    those in the cache, where no gap is left. The authors drop tokens between the turns of a
    conversation, and let what they keep fade from turn to turn; here nothing fades.

    Args:
        window: Recent tokens at most, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.
        surprising: Surprising tokens that are kept.

    Raises:
        UsageError: ``window >= 1``, ``sinks >= 0`` or ``surprising >= 0`` does not hold.
    """

    window: int
    sinks: int
    surprising: int

    name: ClassVar[str] = "sir-llm"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        SINKS,
        MethodOption("surprising", "Tokens that are kept for being unlikely.", least=0),
    )

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token, the query itself")
        if self.sinks < 0:
            raise UsageError(f"sinks {self.sinks}: the smallest is 0")
        if self.surprising < 0:
            raise UsageError(f"surprising {self.surprising}: the smallest is 0")

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """Half of what sinks leave of a window for surprising tokens, the other half for the last.

        So the largest distance is one that the model was trained for.
        """
        sinks = number(given, "sinks", max(LEAST_SINKS, circumstances.prefix_tokens))
        room = max(1, circumstances.window - sinks)
        window = number(given, "window", room - room // 2)
        return cls(window, sinks, number(given, "surprising", max(0, room - window)))

    @property
    def local_window(self) -> int | None:
        """What is left of the window after a decision, and the query."""
        return self.window - self.pass_tokens + 1

    @property
    def exact_length(self) -> int | None:
        """Until then nothing has been dropped."""
        kept, block = self.sinks + self.surprising + self.window, self.pass_tokens
        return kept // block * block

    @property
    def attended_beyond(self) -> int:
        """The surprising tokens."""
        return self.surprising

    @property
    def pass_tokens(self) -> int:
        """A quarter of the window."""
        return max(1, self.window // _BLOCK_SHARE)

    @property
    def weighs_tokens(self) -> bool:
        """By their surprisal."""
        return True

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """All that is kept, or the layer's own window if that is no wider."""
        size = self.sinks + self.surprising + self.window
        if not reaches_beyond(size, layer):
            return (Track("cache", Recent(layer.native_window)),)
        block = self.pass_tokens
        kept = Surprising(self.sinks, self.surprising, self.window - block, block)
        return (Track("cache", kept, Adjacent()),)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """All of it."""
        size = self.sinks + self.surprising + self.window
        if reaches_beyond(size, layer):
            return (Segment("cache"),)
        return (Segment("cache", farthest=layer.native_window),)
