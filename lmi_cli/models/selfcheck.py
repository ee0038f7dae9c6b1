"""A small random model of the same configuration, ours against stock, before any real weight."""

from typing import Any


def check(config: Any) -> None:
    """Placeholder until the next commit."""
