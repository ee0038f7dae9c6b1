"""Linear layers that torch computes, beside those of the library in C."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lmi_cli.models.losses import by_vocabulary
from lmi_cli.native import onednn


class TorchLinear:
    """A linear layer that torch computes."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias
        self.rows, self.columns = weight.shape

    @classmethod
    def join(cls, weights: Sequence[Tensor], bias: Tensor | None = None) -> "TorchLinear":
        """A layer of several weights (``[., in]``), stacked along the outputs."""
        return cls(weights[0] if len(weights) == 1 else torch.cat(tuple(weights)), bias)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._weight.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[..., out]`` of ``x`` (``[..., in]``)."""
        with onednn.linear_layers(x.numel() // self.columns, x.device):
            return functional.linear(x, self._weight, self._bias)

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add the outputs of ``x`` to ``to``."""
        to += self(x)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """``activation(gate) * up`` of ``x``; see :attr:`Blueprint.activation`."""
        gate, up = self(x).chunk(2, dim=-1)
        if activation == "silu":
            return functional.silu(gate) * up
        return functional.gelu(gate, approximate="tanh") * up

    def wide(self, x: Tensor) -> Tensor:
        """Outputs in float32 or wider."""
        out = self(x)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def in_parts(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs in float32 or wider, some of them at a time."""
        return by_vocabulary(x, self._weight, self._bias)

    def weights(self, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` of the weight."""
        return self._weight[first:stop]

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the weight by index."""
        return functional.embedding(ids, self._weight)
