"""Packed weights of few bits, kept in the cache so that later starts only map them.

Packing reads and writes everything once. A file that is mapped instead is in memory as far as it
has been read, and programs share it. Its checksum is compared again when its date has changed.
Imports torch and safetensors.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmi_cli.checkpoints.cached import packed_file, packed_record
from lmi_cli.checkpoints.entries import sha256_file
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import replacing
from lmi_cli.native.linear import PackedLinear, PackedPart

_SCHEMA = 1
_ALIGNMENT = 64
"""Bytes of a cache line; every tensor here is as long as some of them."""
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def load(files: ModelFiles, quantize: str) -> dict[str, PackedLinear]:
    """The packed layers of a model by name; empty if there are none that are sound."""
    path = _path(files, quantize)
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
        if path is not None and _is_sound(path):
            return _read(path)
    return {}


def save(files: ModelFiles, quantize: str, linears: Mapping[str, PackedLinear]) -> bool:
    """Keep packed layers; return whether that was possible."""
    path = _path(files, quantize)
    if path is None:
        return False
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, linear in linears.items():
        described[name] = {
            "columns": linear.columns,
            "parts": [[part.rows, part.bits, part.offset] for part in linear.parts],
        }
        for at, part in enumerate(linear.parts):
            tensors |= {f"{name}.{at}.{kind}": t for kind, t in part.tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < sum(t.nbytes for t in tensors.values()):
            return False
        with replacing(path) as temporary:
            digest = _write(temporary, tensors, {"linears": json.dumps(described)})
        return packed_record(path).write(_stamp(path) | {"sha256": digest})
    except OSError:
        return False


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file whose tensors begin at a cache line; return its sha256.

    The library's own writer leaves them wherever the header ends.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        contents = (t.reshape(-1).view(torch.uint8).numpy() for t in tensors.values())
        for part in (len(text).to_bytes(8, "little"), text, *contents):
            view = memoryview(part)  # type: ignore[arg-type]
            file.write(view)
            digest.update(view)
    return digest.hexdigest()


def _path(files: ModelFiles, quantize: str) -> Path | None:
    return packed_file(files.identity, f"{quantize}-{_SCHEMA}")


def _is_sound(path: Path) -> bool:
    """Whether a file is as it was written; its content is read only if its date has changed."""
    record = packed_record(path)
    written, stamp = record.read(), _stamp(path)
    digest = written.pop("sha256", None)
    if written == stamp:
        return True
    if written.get("size") != stamp["size"] or sha256_file(path) != digest:
        return False
    record.write(stamp | {"sha256": digest})
    return True


def _stamp(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read(path: Path) -> dict[str, PackedLinear]:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        return {
            name: PackedLinear(
                [
                    PackedPart(
                        rows,
                        bits=bits,
                        offset=offset,
                        **{
                            kind: file.get_tensor(f"{name}.{at}.{kind}")
                            for kind in ("codes", "scale", "minimum", "bias")
                            if f"{name}.{at}.{kind}" in names
                        },
                    )
                    for at, (rows, bits, offset) in enumerate(described["parts"])
                ],
                described["columns"],
            )
            for name, described in json.loads(file.metadata()["linears"]).items()
        }
