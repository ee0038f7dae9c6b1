"""The container of state files: tensors and a description in one safetensors file.

A file is written whole or not at all, and only its owner can read it. Reading it runs no code. The
description and every tensor have a checksum, so a damaged file is refused.
"""

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmi_cli.cache.signature import FORMAT
from lmi_cli.disk import is_full, replacing
from lmi_cli.errors import ResourceError, StateFileError

VERSION = 6
_READ_AGAIN = "read the sources again with lmi read"


def write(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a state file, whole or not at all.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    described = json.dumps(description)
    sums = json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()})
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "description": described,
        "checksums": sums,
        "checksum": str(zlib.crc32((described + sums).encode())),
    }
    try:
        with replacing(path, private=True) as temporary:
            save_file(tensors, str(temporary), metadata)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and not is_full(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ResourceError(f"{path} cannot be written: {reason}") from error


def read_description(path: Path) -> dict[str, Any]:
    """The description alone.

    Raises:
        StateFileError: The file is damaged, or of another version.
    """
    with _opened(path) as file:
        return _description(path, file.metadata())[0]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and all tensors, mapped from the file and checked.

    Raises:
        StateFileError: The file is damaged, or of another version.
    """
    with _opened(path) as file:
        described, sums = _description(path, file.metadata())
        names = list(file.keys())
        if set(names) != set(sums):
            raise StateFileError(f"{path} is damaged: it is not complete", hint=_READ_AGAIN)
        tensors = {}
        for name in names:
            tensors[name] = file.get_tensor(name)
            if _checksum(tensors[name]) != sums[name]:
                raise StateFileError(f"{path} is damaged: in {name}", hint=_READ_AGAIN)
        return described, tensors


@contextlib.contextmanager
def _opened(path: Path) -> Any:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StateFileError(f"{path} is damaged: {reason}", hint=_READ_AGAIN) from error


def _description(
    path: Path, metadata: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, int]]:
    if not metadata or metadata.get("format") != FORMAT:
        raise StateFileError(f"{path} is no state file of lmi")
    if metadata.get("version") != str(VERSION):
        raise StateFileError(
            f"{path} has format {metadata.get('version')}, this version reads {VERSION}",
            hint=_READ_AGAIN,
        )
    described, sums = metadata["description"], metadata["checksums"]
    if str(zlib.crc32((described + sums).encode())) != metadata["checksum"]:
        raise StateFileError(f"{path} is damaged: in its description", hint=_READ_AGAIN)
    return json.loads(described), json.loads(sums)


def _checksum(tensor: Tensor) -> int:
    raw = tensor.contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor.view(-1)
    return zlib.crc32(raw.numpy().data)
