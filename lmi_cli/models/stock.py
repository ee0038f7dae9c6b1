"""The same weights as transformers itself runs them, to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.hook import IMPLEMENTATION

ATTENTION = "sdpa"
"""The implementation that transformers chooses by itself."""


class StockModel:
    """A model with its own attention and cache; made by :func:`stock`."""

    def __init__(self, lm: CausalLM) -> None:
        self._lm = lm
        self._cache = DynamicCache(config=lm.config)
        self._next: torch.Tensor

    @torch.inference_mode()
    def read(self, ids: NDArray[np.int32]) -> None:
        """Prefill with all of ``ids`` in one pass, as ``generate`` does."""
        self._forward(torch.from_numpy(ids.astype(np.int64))[None])

    @torch.inference_mode()
    def step(self) -> None:
        """Generate the most likely token behind what was read."""
        self._forward(self._next)

    @property
    def last_token(self) -> int:
        """The most likely token behind what was read and generated."""
        return int(self._next)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(
            tensor.nbytes
            for layer in self._cache.layers
            for tensor in (layer.keys, layer.values)
            if tensor is not None
        )

    def _forward(self, ids: torch.Tensor) -> None:
        output = self._lm.model(
            input_ids=ids.to(self._lm.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._next = output.logits[:, -1].argmax(-1, keepdim=True)


@contextmanager
def stock(lm: CausalLM) -> Iterator[StockModel]:
    """Give the model its own attention for a while."""
    lm.model.set_attn_implementation(ATTENTION)
    try:
        yield StockModel(lm)
    finally:
        lm.model.set_attn_implementation(IMPLEMENTATION)
