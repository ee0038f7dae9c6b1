"""Which method and parameters a task uses, from what the user asked and what was measured."""

from dataclasses import dataclass

from lmi_cli.errors import UsageError
from lmi_cli.methods import METHODS, Full, LMInfinite, Method

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
