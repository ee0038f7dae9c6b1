"""The arithmetic and memory traffic that a model cannot avoid."""

from dataclasses import dataclass

from lmi_cli.engine.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Costs:
    """The work that every implementation of a model has to do.

    Attributes:
        linear_flops: Floating-point operations of the linear layers for a token, without the
            output projection, which prefill needs only once.
        visible_flops: The same for the attention of one layer, for each key that a token sees: a
            dot product and a weighted sum in every head.
        step_bytes: Weights that are read for one generated token, in bytes.
        visible_bytes: Size of a key and a value of every head of one layer, in bytes.
    """

    linear_flops: int
    visible_flops: int
    step_bytes: int
    visible_bytes: int


def costs_of(lm: LanguageModel) -> Costs:
    """The costs of a dense model; for a mixture of experts, these are upper bounds."""
    heads, key_heads = lm.attention_heads
    return Costs(
        linear_flops=2 * lm.linear_weights,
        visible_flops=4 * heads * lm.head_size,
        step_bytes=lm.step_bytes,
        visible_bytes=2 * key_heads * lm.head_size * lm.dtype.itemsize,
    )
