"""Which method and parameters a task uses, from what the user asked and what was measured."""

from dataclasses import dataclass

from lmi_cli.errors import UsageError
from lmi_cli.methods import METHODS, Full, LMInfinite, Memory, Method

SINKS = 10
"""Starting tokens kept for ever, at least (LM-Infinite, section 5)."""

STREAM_SHARE = 4
"""A document beyond the trained length is read in a window of this part of it.

A model is weakest at its largest distances: see ``docs/defaults.md``.
"""


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """What the user asked for; None leaves the choice to us.

    Attributes:
        name: Key of ``METHODS``.
        window: Tokens.
        sinks: Tokens.
        ceiling: Tokens.
    """

    name: str = LMInfinite.name
    window: int | None = None
    sinks: int | None = None
    ceiling: int | None = None

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"unknown method {self.name!r}", hint="one of " + ", ".join(METHODS))

    def build(self, default_window: int, prefix: int) -> Method:
        """The method, where ``default_window`` and ``prefix`` tokens decide what was left open.

        Raises:
            UsageError: The parameters contradict each other.
        """
        if self.name == Full.name:
            if (self.window, self.sinks, self.ceiling) != (None, None, None):
                raise UsageError("--method full has no window, sinks or ceiling")
            return Full()
        window = self.window
        if window is None:
            window = default_window if self.ceiling is None else min(default_window, self.ceiling)
        return LMInfinite(
            window=window,
            sinks=max(SINKS, prefix) if self.sinks is None else self.sinks,
            ceiling=window if self.ceiling is None else self.ceiling,
        )

    def warnings(self, trained_length: int) -> list[str]:
        """What is allowed but unlikely to be meant."""
        if self.window is not None and self.window > trained_length:
            return [
                f"window {self.window:,} is beyond the trained length of {trained_length:,} tokens"
            ]
        return []


ANSWER_FROM = ("auto", "passages", "memory", "window")

# As shares of the whole, after the paper's 5 of 4096 tokens, layer 4 of 32 and half the ceiling.
_TOPK = 32
_FROM_LAYER_SHARE = 8
_DISTANCE_SHARE = 4


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What is kept of a stream, and what its answers come from; None leaves a number to us.

    Attributes:
        answer_from: ``passages`` (the best are read again), ``memory`` (the middle is searched by
            each query head), ``window`` (neither), or ``auto``: what measured best of what is kept.
        index: Whether the keys of the retrieval heads are kept.
        store: Whether all keys and values are kept.
        topk: Tokens that a query head attends to.
        from_layer: First layer that does.
        distance: Tokens.
        int8: Whether the store keeps keys and values in eight bits.
        budget_bytes: Memory for index and store; beyond it they go to files. None has no limit.
    """

    answer_from: str = "auto"
    index: bool = True
    store: bool = False
    topk: int | None = None
    from_layer: int | None = None
    distance: int | None = None
    int8: bool = False
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.answer_from not in ANSWER_FROM:
            raise UsageError(
                f"answer-from {self.answer_from!r} is not known",
                hint="one of " + ", ".join(ANSWER_FROM),
            )
        numbers = (self.topk, self.from_layer, self.distance)
        Memory(*(1 if value is None else value for value in numbers))  # refuses what is none

    def build(self, method: LMInfinite, layers: int) -> Memory:
        """The memory for a method and a model of so many layers; see ``docs/memory.md``."""
        return Memory(
            topk=_TOPK if self.topk is None else self.topk,
            from_layer=layers // _FROM_LAYER_SHARE if self.from_layer is None else self.from_layer,
            distance=(
                max(1, method.ceiling // _DISTANCE_SHARE)
                if self.distance is None
                else self.distance
            ),
        )


NO_MEMORY = MemoryChoice("window", index=False)
"""Plain LM-Infinite: what lies between the first tokens and the window is not seen."""
