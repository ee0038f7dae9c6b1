"""Ten million tokens through a tiny random model, to see that nothing drifts and nothing grows.

The counter of positions starts so that it passes 200 million half-way. What is printed: the mean
loss of the first million tokens and that of the rest, each with its standard error; the peak memory
of each part; and the tokens a second.

    python docs/long_run.py [TOKENS]
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from lmi_cli import memory
from lmi_cli.engine.engine import Engine
from lmi_cli.methods import LMInfinite
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.plain_shape import plain_shape

VOCABULARY = 64
BLOCK = 10_000
FIRST = 1_000_000
MIDDLE = 200_000_000
METHOD = LMInfinite(window=64, sinks=4, ceiling=64)


def tiny_decoder() -> Decoder:
    """A Llama of two layers, with weights large enough to make attention choose."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    shape = plain_shape(config)
    assert shape is not None
    return Decoder(shape, dict(LlamaForCausalLM(config).state_dict()))


def random_blocks(tokens: int) -> Iterator[NDArray[np.int32]]:
    """Random ids, a block at a time."""
    random = np.random.default_rng(0)
    for start in range(0, tokens, BLOCK):
        yield random.integers(0, VOCABULARY, min(BLOCK, tokens - start), dtype=np.int32)


def show(name: str, losses: list[float], peak_bytes: int) -> None:
    """Print the mean loss of a part, with its standard error, and the peak memory."""
    error = np.std(losses, ddof=1) / np.sqrt(len(losses))
    peak = f"{peak_bytes / 2**20:.1f} MiB"
    sys.stdout.write(f"{name}: loss {np.mean(losses):.5f} ± {error:.5f}, peak memory {peak}\n")


def main(tokens: int) -> None:
    """Read and score ``tokens`` tokens; print the figures."""
    engine = Engine(tiny_decoder(), METHOD, chunk=BLOCK)
    state = engine.start(origin=MIDDLE - tokens // 2)
    losses: list[float] = []  # the mean of each block
    started = time.perf_counter()
    for part in engine.score(state, random_blocks(tokens)):
        losses.append(float(np.nanmean(part.nll, dtype=np.float64)))
        if part.tokens == FIRST:
            show(f"first {FIRST:,} tokens", losses, memory.peak_rss_bytes())
            memory.forget_peak_rss()
    took = time.perf_counter() - started
    show("the rest", losses[FIRST // BLOCK :], memory.peak_rss_bytes())
    sys.stdout.write(f"{tokens:,} tokens in {took:,.0f} s: {tokens / took:,.0f} tokens/s\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
