"""Decoding several streams together, so that the weights are read once for all of them.

The linear layers of a model see the newest token of each stream as one row; in attention each row
is a stream of its own. Streams may have any lengths and end at any time. What may follow the newest
token (see :mod:`lmi_cli.engine.drafts`) is read with it, and forgotten where it was wrong.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmi_cli.attention.ranges import QKV
from lmi_cli.cache.state import StreamState
from lmi_cli.engine.drafts import MOST_DRAFTED, MOST_ROWS, Drafter
from lmi_cli.engine.engine import Engine, Generated, Ids, loops, not_finite
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
    """Attention for a few new tokens of each of several streams.

    Args:
        passes: One for each stream.
        counts: The new tokens of each.
    """

    def __init__(self, passes: Sequence[ForwardPass], counts: Sequence[int]) -> None:
        self._passes, self._counts = passes, list(counts)

    def attend(self, layer: int, qkv: QKV) -> Tensor:
        """Attention output ``[1, H, tokens, Dv]``; the tokens of a stream follow each other."""
        parts = (tensor.split(self._counts, 2) for tensor in (qkv.query, qkv.key, qkv.value))
        rows = [
            each.attend(layer, qkv._replace(query=query, key=key, value=value))
            for each, query, key, value in zip(self._passes, *parts, strict=True)
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
    drafters: Sequence[Drafter | None] | None = None,
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
        drafters: That of each stream; None for none. Every token is chosen as without them, from
            the same random numbers; they only decide how many are chosen after one pass. They are
            left out where the newest tokens alone are more than the ``alike_rows`` of the model,
            and where what the method keeps depends on all that has been read, or where a model
            carries a state.
        enough: Told the number of a stream and its tokens so far; ends it if it returns True.

    Yields:
        The number of a stream, from zero, and its next token.

    Raises:
        ModelError: A logit is not finite.
    """
    rows = len(states) + sum(each is not None for each in contrasts or ())
    alike = engine.model.alike_rows
    most = alike if alike > 1 else MOST_ROWS
    if drafters is None or rows > most or not rewinds(engine):
        drafters = [None for _ in states]
    streams = [
        _Stream(state, hidden[None], sampling.generator(first + number), contrast, drafter)
        for number, (state, hidden, contrast, drafter) in enumerate(
            zip(
                states,
                last,
                contrasts or [None for _ in states],
                drafters,
                strict=True,
            )
        )
    ]
    active = dict(enumerate(streams))
    while active:
        # The rows of streams come first, then those of their contrasts.
        hidden = [each.hidden for each in active.values()]
        hidden += [each.contrast.last for each in active.values() if each.contrast is not None]
        all_logits = engine.model.logits(torch.cat(hidden))
        given, prior = 0, sum(len(each.hidden) for each in active.values())
        for number, stream in list(active.items()):
            count = len(stream.hidden)
            logits = all_logits[given : given + count]
            given += count
            without = None
            if stream.contrast is not None:
                without = all_logits[prior : prior + count]
                prior += count
            for row in range(count):
                token = stream.choose(logits[row], without, row, sampling)
                reason = None
                if token in stop_ids or enough(number, stream.tokens):
                    reason = "stop"
                elif len(stream.tokens) >= limit:
                    reason = "length"
                elif loops(stream.tokens):
                    reason = "loop"
                yield number, Generated(token, reason)
                if reason is not None:
                    del active[number]
                if reason is not None or not stream.goes_on(row):
                    break
            stream.end_pass(row + 1)
        if active:
            _advance(engine, list(active.values()), limit, most)


class _Stream:
    """A stream that is being decoded.

    Attributes:
        state: Has read all tokens but the last, and the draft.
        hidden: Hidden states ``[n, hidden]`` of the last token read and of the draft after it.
        contrast: Its state has read the same tokens, and ``last`` has as many rows.
        drafter: Where drafts come from.
        tokens: Those chosen so far.
        drafted: The draft that the last pass has read.
    """

    def __init__(
        self,
        state: StreamState,
        hidden: Tensor,
        generator: torch.Generator,
        contrast: Contrast | None,
        drafter: Drafter | None,
    ) -> None:
        self.state, self.hidden, self.drafter = state, hidden, drafter
        self.contrast = contrast and Contrast(
            contrast.state, contrast.last.view(1, -1), contrast.weight
        )
        self.tokens: list[int] = []
        self.drafted: list[int] = []
        self._generator = generator

    @property
    def states(self) -> list[StreamState]:
        """Its state, and that of its contrast."""
        return [self.state, *([] if self.contrast is None else [self.contrast.state])]

    def choose(self, logits: Tensor, without: Tensor | None, row: int, sampling: Sampling) -> int:
        """Choose the next token from logits ``[vocab]``; ``without`` is ``[n, vocab]``.

        Raises:
            ModelError: A logit is not finite.
        """
        if not bool(logits.max().isfinite()):
            raise not_finite(self.state)
        if self.contrast is not None and without is not None:
            logits = self.contrast.applied(logits, without[row])
        self.tokens.append(sampling.choose(logits, self._generator))
        return self.tokens[-1]

    def goes_on(self, row: int) -> bool:
        """Whether the token chosen from a row is that of the draft, which the next row follows."""
        return row < len(self.drafted) and self.tokens[-1] == self.drafted[row]

    def end_pass(self, chosen: int) -> None:
        """Forget the draft behind the ``chosen`` tokens of this pass."""
        if self.drafter is not None:
            self.drafter.take(self.tokens[-chosen:], len(self.drafted))
        wrong = len(self.drafted) - (chosen - 1)
        for state in self.states:
            state.rewind(state.position - wrong)
        self.drafted = []


def rewinds(engine: Engine) -> bool:
    """Whether a state can forget the newest tokens it has read."""
    return engine.method.pass_tokens is None and not engine.model.is_recurrent


def _advance(engine: Engine, streams: Sequence[_Stream], limit: int, most: int) -> None:
    """Read the newest token of each stream and a draft behind it, at most so many tokens."""
    states = [stream.state for stream in streams]
    contrasts = [each.contrast for each in streams if each.contrast is not None]
    rows = len(states) + len(contrasts)
    room = min(most // rows, MOST_DRAFTED + 1, engine.chunk) - 1
    for stream in streams:
        if stream.drafter is not None:
            stream.drafted = stream.drafter.draft(min(room, limit - len(stream.tokens) - 1))
    ids = [np.array([each.tokens[-1], *each.drafted], dtype=np.int32) for each in streams]
    ids += [each for each, stream in zip(ids, streams, strict=True) if stream.contrast is not None]
    states += [each.state for each in contrasts]
    hidden = forward_batch(engine, states, ids).split([len(each) for each in ids])
    for stream, found in zip(streams, hidden, strict=False):
        stream.hidden = found
    for contrast, found in zip(contrasts, hidden[len(streams) :], strict=True):
        contrast.last = found


def forward_batch(engine: Engine, states: Sequence[StreamState], ids: Sequence[Ids]) -> Tensor:
    """Read tokens in each stream; returns hidden states ``[tokens, hidden]``.

    Streams whose states depend on all that has been read are read one after the other.
    """
    if len(states) == 1 or not rewinds(engine):
        pairs = zip(states, ids, strict=True)
        return torch.cat([engine.forward(state, each) for state, each in pairs])
    for state in states:
        state.begin_pass()
    counts = [len(each) for each in ids]
    passes = [
        ForwardPass(state, engine.layers, count)
        for state, count in zip(states, counts, strict=True)
    ]
    tokens = torch.from_numpy(np.concatenate(ids).astype(np.int64))[None]
    hidden = engine.model.hidden(tokens, JointPass(passes, counts))
    for state, count in zip(states, counts, strict=True):
        state.end_pass(count)
    return hidden[0]
