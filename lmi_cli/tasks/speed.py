"""Notes how fast a document was read, for the forecast of the next one."""

from lmi_cli.engine.engine import Engine
from lmi_cli.models import speeds
from lmi_cli.models.load import Loaded


def remember_speed(loaded: Loaded, engine: Engine, use: str, tokens: int, seconds: float) -> None:
    """Keep the speed of a reading; that of a method without a window depends on the length.

    Args:
        loaded: The model.
        engine: That read.
        use: ``read`` or ``score``.
        tokens: That were read.
        seconds: What it took.
    """
    window = engine.method.parameters().get("window")
    if window is not None:
        setting = speeds.setting_of(use, loaded.lm.precision, window)
        speeds.remember(loaded.files, setting, tokens, seconds)
