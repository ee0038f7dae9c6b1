"""The retrieval heads of models: shipped for the default model, cached for others.

:mod:`lmi_cli.engine.retrieval` explains and uses them; ``tasks/calibrate.py`` finds them. Imports
neither torch nor transformers.
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
    """Return the heads of a model, possibly none at all; None if it has not been calibrated."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return _parse(_record(files).read())
    shipped = json.loads(_SHIPPED.read_bytes())
    return _parse(shipped[files.identity]) if files.identity in shipped else None


def remember_heads(
    files: ModelFiles, looking: RetrievalHeads, ranks: Sequence[tuple[AttentionHead, float]]
) -> Path | None:
    """Cache the heads of a model, with the ranks by which they were chosen.

    Returns:
        The file, or None if it cannot be written.
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
