"""The slopes of ALiBi, by head: what a token of distance takes off a score.

Press et al. 2022 (arXiv 2108.12409), section 3: for a power of two ``n`` of heads they are a
geometric sequence that begins with, and has the ratio, ``2 ** (-8 / n)``. Families differ in what
they do with another number of heads. Computed in float64; a family that rounds them while it
computes in sixteen bits was trained with these.
"""

from collections.abc import Callable
from math import ceil, floor, log2

from transformers import PretrainedConfig

from lmi_cli.errors import ModelError

Slopes = Callable[[PretrainedConfig], tuple[float, ...] | None]
"""The slopes of the heads of a configuration's layers; None where positions enter otherwise."""


def no_slopes(config: PretrainedConfig) -> None:
    """Of a family without ALiBi."""


def _geometric(heads: int, most: float = 8.0) -> list[float]:
    """``2 ** (-most / heads)`` to the powers of 1 to ``heads``."""
    return [2.0 ** (-most * power / heads) for power in range(1, heads + 1)]


def bloom_slopes(config: PretrainedConfig) -> tuple[float, ...]:
    """Those of the next smaller power of two, then every other one of the next larger."""
    heads = config.num_attention_heads
    smaller = 2 ** floor(log2(heads))
    return tuple((_geometric(smaller) + _geometric(2 * smaller)[::2])[:heads])


def falcon_slopes(config: PretrainedConfig) -> tuple[float, ...] | None:
    """As in Bloom, but the bias is scaled like the product of query and key."""
    if not config.alibi:
        return None
    root = (config.hidden_size // config.num_attention_heads) ** 0.5
    return tuple(slope / root for slope in bloom_slopes(config))


def mpt_slopes(config: PretrainedConfig) -> tuple[float, ...]:
    """Every other one of the next larger power of two, those of even rank first.

    Raises:
        ModelError: The model was trained without ALiBi, with learned positions.
    """
    options = config.attn_config
    if not options.alibi:
        raise ModelError(f"{config.model_type}: without ALiBi, it has learned absolute positions")
    heads = config.num_attention_heads
    larger = 2 ** ceil(log2(heads))
    slopes = _geometric(larger, options.alibi_bias_max)
    return tuple(slopes if larger == heads else (slopes[1::2] + slopes[::2])[:heads])
