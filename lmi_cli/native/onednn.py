"""Choose which of torch's two libraries multiplies matrices on the CPU. Imports torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lmi_cli.native.cpu import IS_X86


@contextmanager
def linear_layers(tokens: int, device: torch.device) -> Iterator[None]:
    """Compute linear layers with the faster of torch's two libraries.

    For one token in bfloat16, oneDNN reaches a third of the memory's bandwidth and torch's own
    kernel nearly all of it. For more tokens, and for attention, oneDNN is faster.

    Args:
        tokens: Number of tokens computed at once.
        device: Where the layers are.
    """
    if tokens == 1 and device.type == "cpu" and IS_X86 and torch.backends.mkldnn.enabled:
        with _onednn(False):
            yield
    else:
        yield


@contextmanager
def attention() -> Iterator[None]:
    """Undo :func:`linear_layers`, within it, while attention is computed."""
    if _switched_off:
        with _onednn(True):
            yield
    else:
        yield


_switched_off = False


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    global _switched_off
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]
    _switched_off = not enabled
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = not enabled  # type: ignore[assignment]
        _switched_off = enabled
