"""The retrieval heads of models: shipped for the default model, cached for others.

What they are is in :mod:`lmi_cli.engine.retrieval`; how they are found, in ``tasks/calibrate.py``.
May import the standard library and other light modules of this package; never torch.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads

_SHIPPED = Path(__file__).with_name("retrieval_heads.json")
_SCHEMA = 1


def known_heads(files: ModelFiles) -> RetrievalHeads | None:
    """Return the heads of a calibrated model, of which there may be none; else None."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return _parse(_record(files).read())
    shipped = json.loads(_SHIPPED.read_bytes())
    return _parse(shipped[files.identity]) if files.identity in shipped else None


def remember_heads(
    files: ModelFiles, looking: RetrievalHeads, ranks: Sequence[tuple[AttentionHead, float]]
) -> Path | None:
    """Cache the heads of a model, with the ranks by which they were chosen.

    Returns:
        The file, or None where nothing can be written.
    """
    record = _record(files)
    written = record.write(
        {
            "model": files.id,
            "heads": [list(head) for head in looking.heads],
            "distance": looking.distance,
            "ranks": [[*head, rank] for head, rank in ranks],
        }
    )
    return record.path if written else None


def _record(files: ModelFiles) -> Record:
    return Record("heads", f"{files.identity}, schema {_SCHEMA}")


def _parse(stored: dict[str, Any]) -> RetrievalHeads:
    heads = tuple(AttentionHead(int(layer), int(head)) for layer, head in stored["heads"])
    return RetrievalHeads(heads, int(stored["distance"]))
