"""Whether the keys and values of a window fit the memory that is free."""

from lmi_cli import memory
from lmi_cli.engine.engine import Engine
from lmi_cli.models.costs import costs_of
from lmi_cli.models.load import Loaded


def require_cache(loaded: Loaded, engine: Engine, tokens: int | None = None) -> None:
    """Refuse a method whose caches would not fit, before anything is read.

    Args:
        loaded: The model.
        engine: With the method.
        tokens: Length of the stream, where it is known.

    Raises:
        ResourceError: They do not fit the memory of the one device that all layers are on.
    """
    free = loaded.lm.free_bytes()
    if free is None:
        return
    kept = 0
    for layer in engine.layers:
        bound = engine.method.bound(engine.chunk, layer)
        known = [count for count in (bound, tokens) if count is not None]
        kept += min(known, default=0)
    memory.require(
        kept * costs_of(loaded.lm).visible_bytes,
        f"{engine.method.name}, keeping {max(1, kept // len(engine.layers)):,} tokens a layer,",
        "a smaller --window, or --dtype bfloat16, takes less",
        free=free,
    )
