"""A model of a GGUF file as a folder that transformers loads; made when it is first needed."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lmi_cli.checkpoints import conversion, entries
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.checkpoints.tensors import BLOCKS, INDEX
from lmi_cli.models.weights import Weights


def dequantized(files: ModelFiles, progress: ReportBytes = report_nothing) -> Path:
    """The folder of a model, or one with the same weights in bfloat16 if it holds blocks.

    Raises:
        ModelError: A weight is not finite.
        ResourceError: The disk is full.
        OSError: The weights cannot be read.
    """
    weights = Weights(files.folder, torch.bfloat16)
    if not weights.has_blocks:
        return files.folder
    identity = f"bfloat16 of {files.identity}"
    root = entries.writable_root().folder
    folder = root / f"{files.folder.name}-bfloat16"

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for number, name in enumerate(weights):
            progress(number, len(weights), f"dequantizing {files.id}")
            yield name, weights[name]

    def fill(fresh: Path, scratch: Path) -> None:
        for path in files.folder.iterdir():
            if path.suffix == ".json" and path.name not in (entries.MANIFEST, BLOCKS, INDEX):
                (fresh / path.name).write_bytes(path.read_bytes())
        conversion.save_weights(tensors(), fresh)

    if entries.problem(folder, identity) is not None:
        entries.build(folder, identity, fill, source=f"{files.id} in bfloat16", progress=progress)
    return folder
