"""The limits of the machine: its rate of matrix products and of reading memory.

They are measured in the same run as what is compared with them, since machines are shared.
"""

import time
from collections.abc import Callable

import torch

_GEMM_SHAPES = ((512, 576, 1536), (512, 2048, 2048), (2048, 2048, 2048), (1024, 4096, 4096))
"""Rows, inner and columns; the best rate counts."""

_READ_BYTES = 1 << 28
_SECONDS = 0.4


def gemm_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of the best of a fixed list of matrix products."""
    best = 0.0
    for rows, inner, columns in _GEMM_SHAPES:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype, device=device)

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            torch.mm(left, right.T, out=out)  # noqa: B023 - called before the next turn

        best = max(best, 2 * rows * inner * columns / _seconds(multiply, device))
    return best


def read_bytes_per_s(device: torch.device) -> float:
    """Bytes per second of summing an array far larger than any cache."""
    array = torch.ones(_READ_BYTES // 4, device=device)
    return _READ_BYTES / _seconds(lambda: array.sum(), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, the best within a fraction of a second."""
    work()
    best = float("inf")
    until = time.perf_counter() + _SECONDS
    while True:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended > until:
            return best
