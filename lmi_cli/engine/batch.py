"""Decoding several streams together, so that the weights are read once for all of them.

The linear layers of a model see the newest token of each stream as one row; in attention each row
is a stream of its own. Streams may have any lengths and end at any time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmi_cli.attention.ranges import QKV
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import Engine, Generated, loops, not_finite
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.engine.language_model import Attention
from lmi_cli.engine.sampling import Sampling

PLAUSIBLE = 0.1
"""With a contrast, tokens less probable than this part of the likeliest one are not chosen."""


@dataclass(slots=True)
class Contrast:
    """The same prompt without the text that an answer is to be based on.

    What the model would say anyway counts less: logits are ``(1 + weight) * with the text - weight
    * without it`` (context-aware decoding, Shi et al. 2023, arXiv 2305.14739), over the tokens that
    are plausible with the text (contrastive decoding, Li et al. 2023, arXiv 2210.15097).

    Attributes:
        state: After the prompt without the text.
        last: Hidden state ``[hidden]`` of its last token.
        weight: At least 0.
    """

    state: StreamState
    last: Tensor
    weight: float

    def applied(self, logits: Tensor, without: Tensor) -> Tensor:
        """Logits ``[vocab]`` with and without the text, combined."""
        given, prior = logits.log_softmax(-1), without.log_softmax(-1)
        combined = given + self.weight * (given - prior)
        least = given.max() + math.log(PLAUSIBLE)
        return combined.masked_fill(given < least, -torch.inf)


class JointPass(Attention):
    """Attention for one new token of each of several streams."""

    def __init__(self, passes: Sequence[ForwardPass]) -> None:
        self._passes = passes

    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """Attention output ``[1, H, streams, Dv]``; the rows of ``qkv`` are the streams."""
        rows = [
            each.attend(
                layer,
                qkv._replace(
                    query=qkv.query[:, :, row : row + 1],
                    key=qkv.key[:, :, row : row + 1],
                    value=qkv.value[:, :, row : row + 1],
                ),
            )
            for row, each in enumerate(self._passes)
        ]
        return torch.cat(rows, 2)


def decode_batch(
    engine: Engine,
    states: Sequence[StreamState],
    last: Sequence[Tensor],
    *,
    stop_ids: frozenset[int],
    limit: int,
    sampling: Sampling,
    first: int = 0,
    contrasts: Sequence[Contrast | None] | None = None,
    enough: Callable[[int, Sequence[int]], bool] = lambda stream, tokens: False,
) -> Iterator[tuple[int, Generated]]:
    """Generate in several streams at once.

    Args:
        engine: Runs the model.
        states: After the prompt of each stream; see :meth:`Engine.decode`.
        last: Hidden state ``[hidden]`` of the last prompt token of each stream.
        stop_ids: Tokens that end an answer.
        limit: Largest number of tokens of each answer.
        sampling: How tokens are chosen.
        first: Number of the first stream, for its random generator; the others follow.
        contrasts: That of each stream; None for none. Their states are consumed too.
        enough: Told the number of a stream and its tokens so far; ends it if it returns True.

    Yields:
        The number of a stream, from zero, and its next token.

    Raises:
        ModelError: A logit is not finite.
    """
    generators = [sampling.generator(first + stream) for stream in range(len(states))]
    tokens: list[list[int]] = [[] for _ in states]
    contrast = list(contrasts or [None for _ in states])
    active = list(range(len(states)))
    # The rows of streams come first, then those of their contrasts.
    hidden = torch.stack([*last, *(each.last for each in contrast if each is not None)])
    while active:
        going = []
        rows = engine.model.logits(hidden)
        without = iter(rows[len(active) :])
        for stream, logits in zip(active, rows[: len(active)], strict=True):
            if not bool(logits.max().isfinite()):
                raise not_finite(states[stream])
            token_logits = logits
            if (each := contrast[stream]) is not None:
                token_logits = each.applied(logits, next(without))
            token = sampling.choose(token_logits, generators[stream])
            tokens[stream].append(token)
            reason = None
            if token in stop_ids or enough(stream, tokens[stream]):
                reason = "stop"
            elif len(tokens[stream]) >= limit:
                reason = "length"
            elif loops(tokens[stream]):
                reason = "loop"
            yield stream, Generated(token, reason)
            if reason is None:
                going.append(stream)
        active = going
        if active:
            both = [*active, *(stream for stream in active if contrast[stream] is not None)]
            newest = np.array([tokens[stream][-1] for stream in both], dtype=np.int32)
            others = (contrast[stream] for stream in active)
            going_on = [states[stream] for stream in active]
            going_on += [each.state for each in others if each is not None]
            hidden = _forward(engine, going_on, newest)


def _forward(engine: Engine, states: Sequence[StreamState], ids: np.ndarray) -> Tensor:
    """Read one token in each stream; returns hidden states ``[streams, hidden]``."""
    if len(states) == 1:
        return engine.forward(states[0], ids)
    for state in states:
        state.begin_pass()
    joint = JointPass([ForwardPass(state, engine.layers, 1) for state in states])
    hidden = engine.model.hidden(torch.from_numpy(ids.astype(np.int64))[None], joint)
    for state in states:
        state.end_pass(1)
    return hidden[0]
