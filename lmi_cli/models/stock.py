"""The same weights, run by transformers itself, for comparison."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from lmi_cli.models.causal_lm import CausalLM, load_pretrained
from lmi_cli.models.dequantized import dequantized
from lmi_cli.models.load import Loaded
from lmi_cli.models.recurrent import RWKV
from lmi_cli.native.choice import torch_dtype

ATTENTION = "sdpa"
"""The implementation that transformers chooses by default."""


class StockModel:
    """A model with its own attention and cache; made by :func:`stock`.

    Args:
        model: As transformers loaded it.
        loaded_bytes: Bytes of weights that are in memory only for it.
    """

    def __init__(self, model: PreTrainedModel, loaded_bytes: int) -> None:
        self._model = model
        self.loaded_bytes = loaded_bytes
        self._name = "state" if model.config.model_type == RWKV else "cache"
        self._kept: Any = None if self._name == "state" else DynamicCache(config=model.config)
        self._next: torch.Tensor

    @torch.inference_mode()
    def read(self, ids: NDArray[np.int32]) -> None:
        """Prefill with all of ``ids`` in one pass, as ``generate`` does."""
        self._forward(torch.from_numpy(ids.astype(np.int64))[None])

    @torch.inference_mode()
    def step(self) -> None:
        """Generate the most likely next token."""
        self._forward(self._next)

    @property
    def last_token(self) -> int:
        """The most likely token after everything read and generated."""
        return int(self._next)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, and of the states of recurrent layers."""
        if self._name == "state":
            return sum(tensor.nbytes for tensor in self._kept)
        kept = []
        for layer in self._kept.layers:
            kept += [getattr(layer, "keys", None), getattr(layer, "values", None)]
            for states in ("conv_states", "recurrent_states"):
                kept += getattr(layer, states, {}).values()
        return sum(tensor.nbytes for tensor in kept if tensor is not None)

    def _forward(self, ids: torch.Tensor) -> None:
        output = self._model(
            input_ids=ids.to(self._model.device),
            use_cache=True,
            logits_to_keep=1,
            **{self._name: self._kept},
        )
        self._kept = output[self._name]
        self._next = output.logits[:, -1].argmax(-1, keepdim=True)


@contextmanager
def stock(loaded: Loaded) -> Iterator[StockModel]:
    """Open the model with the default attention of transformers.

    A model that our own decoder runs is loaded a second time.
    """
    with ExitStack() as stack:
        lm, again = loaded.lm, 0
        if not isinstance(lm, CausalLM):
            lm = stack.enter_context(
                load_pretrained(
                    dequantized(loaded.files)[0],
                    torch_dtype(lm.dtype, lm.device),
                    {"device_map": {"": lm.device}},
                )
            )
            again = lm.weights_bytes
        model = stack.enter_context(lm.with_own_attention(ATTENTION))
        yield StockModel(model, again)
