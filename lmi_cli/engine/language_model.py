"""The interface of a loaded model, whoever computes it. Imports torch only."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lmi_cli import memory
from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.ranges import QKV, TokenView
from lmi_cli.engine import CHUNK


class Attention(ABC):
    """The attention that a model calls in each layer instead of its own.

    Attributes:
        position: True position of the first new token.
        recurrent: The state of recurrent layers behind the token before them, by name. A model that
            has such layers replaces it by the state behind the last of the new tokens when it has
            read them; the tensors themselves are never changed.
    """

    position: int = 0
    recurrent: Mapping[str, Tensor] = MappingProxyType({})

    @abstractmethod
    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """Attention output ``[B, H, Q, Dv]`` of layer number ``layer``, counted from zero."""

    def views(self, scale: float, dtype: torch.dtype, most_ranges: int) -> list[TokenView] | None:
        """What the new tokens see in each layer, for a model that attends by itself.

        Args:
            scale: Factor on each score.
            dtype: In which the model computes.
            most_ranges: Ranges that the model can attend to in one layer.

        Returns:
            A view for each layer, with room made for the tokens' own keys and values, which the
            model has to write; None where :meth:`attend` must be called.
        """
        return None


class Losses(NamedTuple):
    """How well tokens are predicted, in nats, float32 or wider.

    Attributes:
        loss: Negative log-likelihood of each token, ``[n]``; not finite where a logit is not a
            number or plus infinity.
        entropy: Of the distribution that predicts it, ``[n]``, or None; as finite as the loss, but
            where the token itself has probability zero.
    """

    loss: Tensor
    entropy: Tensor | None = None


class LanguageModel(ABC):
    """A loaded causal language model: token ids in, float32 logits out.

    Attributes:
        family: Model type, such as ``llama``.
        trained_length: The longest text, in tokens, that it was made for.
        vocab_size: Rows of its embedding.
        attention_heads: Query heads and key heads of a layer.
        head_size: Components of a key.
        dtype: In which it computes.
        device: That token ids go to.
        device_map: Device by module, ``""`` standing for the whole model.
        computed_by: Whose code runs the layers.
        linear_by: What computes their linear layers: ``C`` or ``torch``.
        is_recurrent: Whether some layers carry a state; see :attr:`Attention.recurrent`.
        quantize: How linear layers keep their weights: ``none`` for their dtype, ``blocks`` of a
            GGUF file, or rounded to ``int8`` or ``int4``.
    """

    family: str
    trained_length: int
    vocab_size: int
    attention_heads: tuple[int, int]
    head_size: int
    dtype: torch.dtype
    device: torch.device
    device_map: dict[str, str]
    computed_by: str
    linear_by: str = "torch"
    is_recurrent: bool = False
    quantize: str = "none"

    @abstractmethod
    def layers(self, horizon: int) -> list[LayerSpec]:
        """The attention layers, as the stock model has them for a text of ``horizon`` tokens.

        Layers without attention are left out, and not counted in the index of the others.
        """

    @abstractmethod
    def hidden(self, ids: Tensor, attention: Attention, depth: int | None = None) -> Tensor:
        """Final hidden states ``[B, n, hidden]`` of new tokens ``ids`` (int64, ``[B, n]``).

        With ``depth``, only so many layers are run, and of the last of them no more than its
        attention has to be; the states are then of no use.
        """

    @abstractmethod
    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[..., hidden]``), at most ``rows`` tokens at a time.

        Each slice is ``[<= rows, vocab]`` in float32 or wider.
        """

    @abstractmethod
    def losses(self, hidden: Tensor, targets: Tensor, *, with_entropy: bool = False) -> Losses:
        """How well tokens are predicted by the hidden states before them.

        Logits of the whole vocabulary are never in memory together.

        Args:
            hidden: ``[n, hidden]``.
            targets: Ids of the tokens, int64 ``[n]``, on the CPU.
            with_entropy: Whether entropies are wanted.
        """

    @abstractmethod
    def output_rows(self, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` of the output projection, ``[stop - first, hidden]``."""

    @abstractmethod
    def layer_device(self, index: int) -> torch.device:
        """The device on which an attention layer runs."""

    @property
    @abstractmethod
    def weights_bytes(self) -> int:
        """Bytes of all weights, each storage counted once, wherever they lie."""

    @property
    @abstractmethod
    def linear_weights(self) -> int:
        """Number of weights in the linear layers, without the output projection behind them."""

    @property
    @abstractmethod
    def step_bytes(self) -> int:
        """Bytes of the weights that are read for one generated token."""

    @property
    def chunk(self) -> int:
        """Tokens in one forward pass that suit the model."""
        return CHUNK

    @property
    def alike_rows(self) -> int:
        """Tokens of one pass that get exactly the hidden states and logits of a pass of each.

        With more of them, sums may be ordered otherwise.
        """
        return 1

    def step_obstacle(self, tokens: int) -> str | None:
        """Why a pass over so many tokens never takes all layers in one call; None if it may."""
        return f"{self.computed_by} runs the layers"

    @property
    def dtype_name(self) -> str:
        """The dtype in which the model computes, as in ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def close(self) -> None:  # noqa: B027 - most have nothing to undo
        """Undo changes made outside of this object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32 or wider, ``[..., vocab]``, of hidden states ``[..., hidden]``."""
        (logits,) = self.logits_in_slices(hidden, max(1, hidden.shape[:-1].numel()))
        return logits.view(*hidden.shape[:-1], -1)

    def layer_devices(self) -> list[torch.device]:
        """The device of each attention layer, in order."""
        return [self.layer_device(layer.index) for layer in self.layers(self.trained_length)]

    @property
    def last_device(self) -> torch.device:
        """The device of final hidden states."""
        return (self.layer_devices() or [self.device])[-1]

    def free_bytes(self) -> int | None:
        """Memory that is free on the device of all layers; None if they are spread."""
        placed = set(self.layer_devices()) or {self.device}
        if len(placed) != 1:
            return None
        (device,) = placed
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
        return memory.available_bytes() if device.type == "cpu" else None

    def device_peak_bytes(self) -> int:
        """Largest memory allocated on accelerators so far; 0 without one."""
        if not torch.cuda.is_available():
            return 0
        return sum(
            torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())
        )

    def forget_device_peak(self) -> bool:
        """Start counting the memory of accelerators again; False without one."""
        if not torch.cuda.is_available():
            return False
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
        return True
