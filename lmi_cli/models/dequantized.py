"""A model of a GGUF file as a folder that transformers loads; made when it is first needed."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from lmi_cli.checkpoints import cached, conversion, entries, resolve
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.checkpoints.tensors import BLOCKS, INDEX
from lmi_cli.disk import is_full
from lmi_cli.errors import ResourceError
from lmi_cli.models.weights import Weights


def dequantized(
    files: ModelFiles, progress: ReportBytes = report_nothing
) -> tuple[Path, tuple[str, ...]]:
    """The folder of a model, or one with the same weights in bfloat16 if it holds blocks.

    Returns:
        The folder, and what the user should know about it.

    Raises:
        ModelError: A weight is not finite.
        ResourceError: The disk is full.
        OSError: The weights cannot be read.
    """
    weights = Weights(files.folder, torch.bfloat16)
    if not weights.has_blocks:
        return files.folder, ()
    identity, name = cached.dequantized_entry(files)
    if (sound := resolve.cached_entry(name, identity)) is not None:
        return sound, ()
    root = entries.writable_root()
    folder = root.folder / name
    resolve.require_disk(root.folder, sum(2 * prod(w) for w in weights.shapes.values()))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for number, name in enumerate(weights):
            progress(number, len(weights), f"dequantizing {files.id}")
            yield name, weights[name]

    def fill(fresh: Path, scratch: Path) -> None:
        for path in files.folder.iterdir():
            if path.suffix == ".json" and path.name not in (entries.MANIFEST, BLOCKS, INDEX):
                (fresh / path.name).write_bytes(path.read_bytes())
        conversion.save_weights(tensors(), fresh)

    try:
        entries.build(folder, identity, fill, source=f"{files.id} in bfloat16", progress=progress)
    except SafetensorError as error:
        if is_full(error):
            raise ResourceError(f"{folder} cannot be written: {error}") from error
        raise
    return folder, root.notes
