"""How fast a model has read on this machine, kept from one run to the next for forecasts.

Imports the standard library and the light modules of this package; never torch.
"""

import platform
from collections.abc import Mapping

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record

_LEAST_TOKENS = 4096
_FASTEST = 1e12


def setting_of(use: str, precision: str, parameters: Mapping[str, object]) -> str:
    """The key under which a speed is kept.

    Args:
        use: ``read`` or ``score``.
        precision: As in ``bfloat16``.
        parameters: Name and parameters of the method.
    """
    method = " ".join(str(part) for item in parameters.items() for part in item)
    return f"{platform.node()}: {use} in {precision}, {method}"


def recall(files: ModelFiles) -> dict[str, float]:
    """Tokens per second of the last reading in each setting."""
    return {
        setting: speed
        for setting, speed in _record(files).read().items()
        if isinstance(speed, float) and 0.0 < speed < _FASTEST
    }


def remember(files: ModelFiles, setting: str, tokens: int, seconds: float) -> None:
    """Keep the speed of a reading, if it was long enough to be meaningful.

    If the cache cannot be written, only a later forecast is missing.
    """
    if tokens >= _LEAST_TOKENS and seconds > 0.0:
        record = _record(files)
        record.write(record.read() | {setting: round(tokens / seconds, 1)})


def _record(files: ModelFiles) -> Record:
    return Record("speeds", files.identity)
