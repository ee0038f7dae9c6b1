"""The instance of the compiled library that is open.

Imports torch and the standard library.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from lmi_cli.native import cpu

_TILES = frozenset(("amx_tile", "amx_bf16"))

_INTEGER, _POINTER, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_ARGUMENTS = {
    "lmi_attend": [_POINTER, *[_INTEGER] * 5, _FLOAT, _INTEGER, _POINTER, _POINTER],
    "lmi_attend_few": [_POINTER, *[_INTEGER] * 5, _FLOAT, _INTEGER, _POINTER, _POINTER],
    "lmi_norm": [_POINTER, _POINTER, _FLOAT, *[_INTEGER] * 3, _POINTER],
    "lmi_rotate": [
        _POINTER, _INTEGER, _INTEGER, _POINTER, _POINTER, *[_INTEGER] * 4, _POINTER,
    ],
    "lmi_quantize": [_POINTER, _INTEGER, _INTEGER, _POINTER, _POINTER, _POINTER],
    "lmi_repack": [_INTEGER, _POINTER, *[_INTEGER] * 4, _POINTER, _POINTER, _POINTER],
    "lmi_pack": [_POINTER, *[_INTEGER] * 4, _POINTER],
    "lmi_embed": [_POINTER, _POINTER, _INTEGER, _POINTER],
    "lmi_linear": [_POINTER, _INTEGER, _POINTER, _INTEGER, _POINTER, _INTEGER],
    "lmi_likelihood": [_POINTER, _POINTER, _INTEGER, _POINTER, _FLOAT, _FLOAT, _POINTER, _POINTER],
    "lmi_few": [_POINTER],
    "lmi_threads": [_INTEGER],
    "lmi_tiles": [_INTEGER],
    "lmi_step": [_POINTER, _POINTER, _POINTER, _INTEGER, _INTEGER, _POINTER],
}  # fmt: skip

_library: ctypes.CDLL | None = None
_uses_tiles = False


def use(path: Path | None) -> None:
    """Compute with the library at ``path`` from now on; with None, with torch alone.

    It uses as many threads as torch does.

    Raises:
        OSError: The library cannot be opened.
        AttributeError: The library lacks a function.
    """
    global _library
    if path is None:
        _library = None
        return
    opened = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        getattr(opened, name).argtypes = arguments
    opened.lmi_threads(torch.get_num_threads())
    _library = opened
    use_tiles(cpu.features() >= _TILES)


def use_tiles(wanted: bool) -> bool:
    """Multiply by the matrix unit (AMX) from now on, or no longer; return whether it is used.

    That is up to the library and the system as well.
    """
    global _uses_tiles
    _uses_tiles = bool(opened().lmi_tiles(wanted and cpu.features() >= _TILES))
    return _uses_tiles


def uses_tiles() -> bool:
    """Whether the library that is open multiplies by the matrix unit."""
    return _library is not None and _uses_tiles


def is_open() -> bool:
    """Whether a library is open."""
    return _library is not None


def opened() -> ctypes.CDLL:
    """The open library.

    Raises:
        RuntimeError: No library is open.
    """
    if _library is None:
        raise RuntimeError("no library is open")
    return _library


def takes(tensor: Tensor) -> bool:
    """Whether a library is open and supports tensors of this kind."""
    return _library is not None and tensor.dtype is torch.bfloat16 and tensor.device.type == "cpu"
