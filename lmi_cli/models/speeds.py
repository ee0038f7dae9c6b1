"""How fast a model last read on this machine, kept from one run to the next for forecasts.

May import the standard library and other light modules of this package; never torch.
"""

import platform

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record

_LEAST_TOKENS = 4096


def setting_of(use: str, dtype: str, window: int) -> str:
    """Return the name of what a speed holds for.

    Args:
        use: ``read`` or ``score``.
        dtype: As in ``bfloat16``.
        window: Tokens.
    """
    return f"{platform.node()}: {use} in {dtype}, window {window}"


def recall(files: ModelFiles, setting: str) -> float | None:
    """Return the tokens per second of the last reading in this setting, if there was one."""
    speed = _record(files).read().get(setting)
    return speed if isinstance(speed, float) and 0.0 < speed < 1e12 else None


def remember(files: ModelFiles, setting: str, tokens: int, seconds: float) -> None:
    """Note a reading, if it was long enough to say something.

    A cache that cannot be written costs a forecast, no more.
    """
    if tokens >= _LEAST_TOKENS and seconds > 0.0:
        record = _record(files)
        record.write(record.read() | {setting: round(tokens / seconds, 1)})


def _record(files: ModelFiles) -> Record:
    return Record("speeds", files.identity)
