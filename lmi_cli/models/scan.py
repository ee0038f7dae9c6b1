"""The selective scan of Mamba, from any state. Imports torch only.

``h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]`` and ``y[t] = C[t] h[t]`` (Gu and Dao 2023, arXiv
2312.00752, equations 2 and 4, with the input discretised as in their implementation).
"""

import torch
from torch import Tensor

_BLOCK_NUMBERS = 2**22
"""Numbers in the states of all tokens that are computed together, a few tokens at least."""


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read tokens, and return what each gives and the state behind them.

    States and what is added to them are float32 or wider; like transformers, this rounds a state to
    the dtype of ``x`` before its product with ``c``.

    Args:
        x: ``[batch, channels, tokens]``.
        dt: Step sizes, like ``x``.
        a: ``[channels, size]``, negative.
        b: ``[batch, size, tokens]``.
        c: Like ``b``.
        state: Before the first token, ``[batch, channels, size]``; None for zeros.

    Returns:
        ``[batch, channels, tokens]`` in the dtype of ``x``, and the new state.
    """
    tokens, first = x.shape[-1], dt.permute(2, 0, 1)[..., None]
    wide = torch.promote_types(torch.promote_types(a.dtype, x.dtype), torch.float32)
    numbers = x.shape[0] * a.numel()
    state = x.new_zeros((x.shape[0], *a.shape), dtype=wide) if state is None else state.to(wide)
    block, output = max(16, _BLOCK_NUMBERS // numbers), []
    for start in range(0, tokens, block):
        # Tokens come first, so that the states of one lie side by side.
        part = slice(start, start + block)
        step = first[part]
        decay = torch.exp(a.to(wide) * step)
        added = b[..., part].permute(2, 0, 1)[:, :, None].to(wide) * step
        states = added * x[..., part].permute(2, 0, 1)[..., None].to(wide)
        for at in range(len(states)):
            state = torch.addcmul(states[at], decay[at], state, out=states[at])
        seen = c[..., part].permute(2, 0, 1)[..., None]
        output.append(torch.matmul(states.to(x.dtype), seen)[..., 0])
    return torch.cat(output).permute(1, 2, 0), state.clone()
