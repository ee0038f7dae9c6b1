"""How well a model foresees a question behind each of several texts.

Two measures, in nats and the larger the better; both are means over the tokens of the question
alone, each predicted from the text, what stands between, and the tokens of the question before it:

* the *likelihood*, the logarithm of the probability of the token (UPR, Sachan et al. 2022, arXiv
  2204.07496);
* the *certainty*, which is minus the entropy of the predicted distribution. XL3M (Wang et al. 2024,
  arXiv 2405.17755) chooses the segments of a long text by the certainty of the model. Its abstract,
  which is what we know of it, leaves open over which positions and by which formula that is taken,
  so this is our definition.

``docs/prompts.md`` compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine import MEASURES
from lmi_cli.engine.batch import forward_batch, rewinds
from lmi_cli.engine.engine import Engine, Ids, not_finite

TOGETHER = 8
"""Texts behind which a question is read at the same time."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows a text up to the answer: ``ids``, of which ``first`` to ``stop`` are asked."""

    ids: Ids
    first: int
    stop: int


def foresight(engine: Engine, texts: Sequence[Ids], tails: Sequence[Tail]) -> NDArray[np.float64]:
    """Likelihood and certainty of each question behind each text.

    Each text is read once, whatever the number of questions; a question is read behind all of the
    texts together.

    Args:
        engine: Runs the model. Its window has room for each text with each tail.
        texts: At most :data:`TOGETHER`, of at least one token each.
        tails: The questions, of at least one token each.

    Returns:
        float64 ``[2, texts, tails]``, in nats; the measures are in the order of
        :data:`lmi_cli.engine.MEASURES`.

    Raises:
        ModelError: A logit is not finite.
    """
    states = [engine.start() for _ in texts]
    last = _read(engine, states, texts)
    found = np.empty((len(MEASURES), len(texts), len(tails)))
    for number, tail in enumerate(tails):
        ends = [state.position for state in states]
        behind = states if rewinds(engine) else [state.fork() for state in states]
        rows = _read_behind(engine, behind, tail.ids)
        before = torch.cat((last[:, None], rows[:, :-1]), 1)[:, tail.first : tail.stop]
        wanted = torch.from_numpy(tail.ids[tail.first : tail.stop].astype(np.int64))
        found[:, :, number] = _measured(engine, behind, before, wanted)
        for state, end in zip(states, ends, strict=True):
            state.rewind(end)  # which a fork has left where it was
    return found


def _read(engine: Engine, states: Sequence[StreamState], texts: Sequence[Ids]) -> Tensor:
    """Read a text in each state; returns hidden states ``[texts, hidden]`` of the last tokens.

    Short texts share a pass, as far as the chunk has room for them.
    """
    last: list[Tensor] = []
    while len(last) < len(texts):
        first = len(last)
        sizes = accumulate(map(len, texts[first:]))
        count = max(1, sum(size <= engine.chunk for size in sizes))
        group = texts[first : first + count]
        if count == 1:
            for event in engine.read(states[first], group):
                newest = event.last
            last.append(newest)
            continue
        hidden = forward_batch(engine, states[first : first + count], group)
        last += [each[-1] for each in hidden.split([len(text) for text in group])]
    return torch.stack(last)


def _read_behind(engine: Engine, states: Sequence[StreamState], ids: Ids) -> Tensor:
    """Read the same tokens in each state; returns hidden states ``[texts, tokens, hidden]``."""
    size = max(1, engine.chunk // len(states))
    parts = [ids[at : at + size] for at in range(0, len(ids), size)]
    hidden = (forward_batch(engine, states, [part] * len(states)) for part in parts)
    return torch.cat([each.view(len(states), -1, each.shape[-1]) for each in hidden], 1)


def _measured(
    engine: Engine, states: Sequence[StreamState], before: Tensor, wanted: Tensor
) -> NDArray[np.float64]:
    """The measures ``[2, texts]``, from states ``[texts, tokens, hidden]`` before each token."""
    texts = len(before)
    found = engine.model.losses(before.flatten(0, 1), wanted.repeat(texts), with_entropy=True)
    # The likelihood alone may be zero.
    if found.entropy is None or not bool(found.entropy.isfinite().all()):
        raise not_finite(states[0])
    measures = torch.stack((-found.loss, -found.entropy)).double().cpu()
    means: NDArray[np.float64] = measures.view(len(MEASURES), texts, -1).mean(2).numpy()
    return means
