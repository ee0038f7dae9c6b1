"""The retrieval heads of models: shipped for the default model, cached for others.

What they are is in :mod:`lmi_cli.engine.retrieval`; how they are found, in ``tasks/calibrate.py``.
"""

import contextlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import cache_folder
from lmi_cli.engine.heads import Head, RetrievalHeads

_SHIPPED = Path(__file__).with_name("retrieval_heads.json")
_SCHEMA = 1


def known_heads(files: ModelFiles) -> RetrievalHeads | None:
    """The heads of a model that was calibrated before, be they none; None for any other."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        cached = _cached(files)
        if cached is not None and cached.exists():
            stored = json.loads(cached.read_bytes())
            if stored["schema"] == _SCHEMA and stored["identity"] == files.identity:
                return _parse(stored)
    shipped = json.loads(_SHIPPED.read_bytes())
    return _parse(shipped[files.identity]) if files.identity in shipped else None


def remember_heads(
    files: ModelFiles, looking: RetrievalHeads, ranks: Sequence[tuple[Head, float]]
) -> Path | None:
    """Cache the heads of a model; None where nothing can be written."""
    path = _cached(files)
    if path is None:
        return None
    stored = {
        "schema": _SCHEMA,
        "identity": files.identity,
        "model": files.id,
        "heads": [list(head) for head in looking.heads],
        "distance": looking.distance,
        "ranks": [[*head, rank] for head, rank in ranks],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return None
    return path


def _cached(files: ModelFiles) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "heads" / f"{files.identity[:32]}.json"


def _parse(stored: dict[str, Any]) -> RetrievalHeads:
    heads = tuple(Head(int(layer), int(head)) for layer, head in stored["heads"])
    return RetrievalHeads(heads, int(stored["distance"]))
