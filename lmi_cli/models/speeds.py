"""How fast a model last read on this machine, kept from one run to the next for forecasts."""

import contextlib
import json
import platform
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import cache_folder, write_atomically

_LEAST_TOKENS = 4096


def setting_of(use: str, dtype: str, window: int) -> str:
    """What a speed holds for.

    Args:
        use: ``read`` or ``score``.
        dtype: As in ``bfloat16``.
        window: Tokens.
    """
    return f"{platform.node()}: {use} in {dtype}, window {window}"


def recall(files: ModelFiles, setting: str) -> float | None:
    """Tokens a second of the last reading in this setting, if there was one."""
    speed = _known(_path(files)).get(setting)
    return speed if isinstance(speed, float) and 0.0 < speed < 1e12 else None


def remember(files: ModelFiles, setting: str, tokens: int, seconds: float) -> None:
    """Note a reading, if it was long enough to say something."""
    path = _path(files)
    if path is None or tokens < _LEAST_TOKENS or seconds <= 0.0:
        return
    known = _known(path) | {setting: round(tokens / seconds, 1)}
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a forecast, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(known, indent=1) + "\n").encode())


def _known(path: Path | None) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        known = json.loads(path.read_bytes()) if path is not None else {}
        return known if isinstance(known, dict) else {}
    return {}


def _path(files: ModelFiles) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "speeds" / f"{files.identity[:32]}.json"
