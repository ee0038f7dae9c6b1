"""The likelihood of tokens, by a packed output projection; see ``likelihood.c``."""

import ctypes

import torch
from torch import Tensor

from lmi_cli.native.library import opened
from lmi_cli.native.linear import PackedLinear


def losses(
    linear: PackedLinear,
    x: Tensor,
    targets: Tensor,
    *,
    factor: float = 1.0,
    softcap: float = 0.0,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The losses of tokens given hidden states, and the entropies of what is predicted there.

    Logits are products, which are never all in memory, times a factor, and then pass through
    ``softcap * tanh(logit / softcap)``. Results are the same for any number of threads.

    Args:
        linear: The output projection.
        x: bfloat16 ``[n, in]``.
        targets: Ids of the tokens, int64 ``[n]``.
        factor: What products are multiplied by.
        softcap: 0 for none.
        with_entropy: Whether entropies are wanted.

    Returns:
        In nats, float32 ``[n]``; not finite where a logit is not a number or plus infinity.

    Raises:
        IndexError: A target is not one of the outputs.
        TypeError: Hidden states or targets have another shape or dtype.
        MemoryError: Memory ran out.
    """
    usual = x.dtype is torch.bfloat16 and x.shape[1:] == (linear.columns,)
    if not usual or targets.dtype is not torch.int64 or targets.shape != x.shape[:1]:
        raise TypeError(
            f"got {targets.dtype} {list(targets.shape)} for {x.dtype} {list(x.shape)} "
            f"and {linear.columns:,} bfloat16 inputs"
        )
    found, entropies = torch.empty(len(x)), torch.empty(len(x)) if with_entropy else None
    if len(x) == 0:
        return found, entropies
    if not 0 <= int(targets.min()) <= int(targets.max()) < linear.rows:
        raise IndexError(f"a target is not one of {linear.rows:,} tokens")
    x, targets = x.contiguous(), targets.contiguous()
    if opened().lmi_likelihood(
        ctypes.byref(linear.struct),
        x.data_ptr(),
        len(x),
        targets.data_ptr(),
        factor,
        softcap,
        found.data_ptr(),
        None if entropies is None else entropies.data_ptr(),
    ):
        raise MemoryError("too little memory for the logits of a few tokens")
    return found, entropies
