"""Arithmetic and memory traffic that a model cannot do without."""

from dataclasses import dataclass

from torch import nn

from lmi_cli.models.causal_lm import CausalLM


@dataclass(frozen=True, slots=True)
class Costs:
    """What every implementation of a model has to do.

    Attributes:
        linear_flops: Floating-point operations of the linear layers for a token, the output
            projection left out, since reading needs it only once.
        visible_flops: The same of one layer's attention for each key that a token sees: a dot
            product and a weighted sum in every head.
        step_bytes: Weights that one generated token takes, in bytes.
        visible_bytes: A key and a value of every head of one layer, in bytes.
    """

    linear_flops: int
    visible_flops: int
    step_bytes: int
    visible_bytes: int


def costs_of(lm: CausalLM) -> Costs:
    """The costs of a dense model; of a mixture of experts these are upper bounds."""
    head = lm.model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in lm.model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    heads, key_heads = lm.attention_heads
    size = getattr(lm.config, "head_dim", None) or lm.config.hidden_size // heads
    return Costs(
        linear_flops=2 * linear,
        visible_flops=4 * heads * size,
        step_bytes=(linear + head.weight.numel()) * lm.dtype.itemsize,
        visible_bytes=2 * key_heads * size * lm.dtype.itemsize,
    )
