"""Choose which of torch's two libraries multiplies matrices on the CPU, and bound its caches.

Imports torch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lmi_cli.native.cpu import IS_X86

_KEPT_SHAPES = "32"


def bound_caches() -> None:
    """Let oneDNN, and torch's layer above it, keep the compiled code of a few shapes only.

    By default they keep that of a thousand, about five megabytes for each new length of a text.
    Has no effect once oneDNN has been used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _KEPT_SHAPES)


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
