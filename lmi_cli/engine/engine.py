"""Prefill, score and decode: one loop over chunks of token ids.

Every pass goes through :meth:`Engine.forward`; the three uses differ in what they do with the
hidden states and in the events they yield.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli import memory
from lmi_cli.attention.layer import LayerSpec, RopeScaling
from lmi_cli.attention.scaling import scaled
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.state import StreamState
from lmi_cli.engine import CHUNK
from lmi_cli.engine.forward import ForwardPass, Observer
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.engine.sampling import Sampling
from lmi_cli.engine.tally import Tally
from lmi_cli.errors import ModelError, ResourceError
from lmi_cli.methods import Method
from lmi_cli.methods.base import bound

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Read:
    """A chunk has been read.

    Attributes:
        tokens: Tokens read since the state began.
        hidden: Final hidden states of the chunk, ``[n, hidden]``.
    """

    tokens: int
    hidden: Tensor

    @property
    def last(self) -> Tensor:
        """Hidden state of the newest token, ``[hidden]``."""
        return self.hidden[-1]


@dataclass(frozen=True, slots=True)
class Scored:
    """A chunk has been scored.

    Attributes:
        tokens: Tokens read since the state began.
        nll: Negative log-likelihood in nats of each token of the chunk given those before it,
            float32; nan for a first token that nothing precedes.
    """

    tokens: int
    nll: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Generated:
    """A token has been generated.

    Attributes:
        token: Its id.
        finish_reason: Why generation ended with it: ``stop`` (an end token, which is not part of
            the answer), ``length`` or ``loop``; None while it goes on.
    """

    token: int
    finish_reason: str | None


class _Pass(NamedTuple):
    """Tokens that have been read, their hidden states ``[n, hidden]``, and their losses.

    The losses are as in :class:`Scored`; they are known where the method weighs tokens.
    """

    ids: Ids
    hidden: Tensor
    nll: NDArray[np.float32] | None


class Engine:
    """Runs a model over a stream by one method.

    Args:
        model: The language model.
        method: Says what a query attends to and what is kept.
        chunk: Largest number of tokens in one forward pass.
        longest: Tokens of the whole stream, answer included, if that is known. Models with one set
            of frequencies for short texts and one for long texts choose by it.
        depth: Layers that are run; None runs all of them. Fewer serve only to observe attention or
            to record keys.

    Attributes:
        tally: If set, counts what computes each pass.

    Raises:
        ModelError: The method changes rotary frequencies that the model does not have, or that have
            been changed before.
    """

    def __init__(
        self,
        model: LanguageModel,
        method: Method,
        chunk: int = CHUNK,
        *,
        longest: int | None = None,
        depth: int | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.chunk = chunk
        self.depth = depth
        self.tally: Tally | None = None
        self._halved = False
        # Within its window a method is the stock model, so the window chooses the frequencies.
        horizon = method.exact_length or model.trained_length
        layers = model.layers(horizon if longest is None else min(horizon, longest))
        if method.rope_change is not None:
            layers = _rescaled(model, layers, method.rope_change)
        self.layers = layers[:depth]

    def start(self, *, origin: int = 0, pool: BlockPool | None = None) -> StreamState:
        """A state that has read nothing; see :class:`StreamState` for ``origin`` and ``pool``."""
        return StreamState(self.method, self.layers, self.chunk, origin=origin, pool=pool)

    def bound(self) -> int | None:
        """Largest number of tokens any layer keeps; None grows with the stream."""
        return bound(self.method, self.layers, self.chunk)

    def forward(self, state: StreamState, ids: Ids, observe: Observer | None = None) -> Tensor:
        """Read one chunk and return its hidden states ``[n, hidden]``.

        It is one pass, unless the method or a layer wants passes to end within it. A pass that
        fails leaves the state unusable until
        :meth:`~lmi_cli.cache.state.StreamState.undo_pass` is called.

        Raises:
            ModelError: The tokenizer has given an id for which the model has no embedding.
        """
        self._require_known(ids)
        passes = []
        while len(ids):
            room = self._room(state, len(ids))
            passes.append(self._pass(state, ids[:room], observe).hidden)
            ids = ids[room:]
        return passes[0] if len(passes) == 1 else torch.cat(passes)

    def _require_known(self, ids: Ids) -> None:
        """Refuse ids for which the model has no embedding.

        Raises:
            ModelError: There is one.
        """
        if (largest := int(ids.max(initial=0))) >= self.model.vocab_size:
            raise ModelError(
                f"the tokenizer gives the id {largest:,}, but the model has only "
                f"{self.model.vocab_size:,} embeddings"
            )

    def _pass(self, state: StreamState, ids: Ids, observe: Observer | None) -> _Pass:
        state.begin_pass()
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        if self.tally is not None:
            self.tally.passes += 1
            if reason := self.model.step_obstacle(len(ids)):
                self.tally.refused[reason] += 1
        attention = ForwardPass(state, self.layers, len(ids), observe, self.tally)
        hidden = self.model.hidden(tokens, attention, self.depth)
        if state.means is not None:
            state.means.append(hidden[0], state.position)
        nll = None
        if self.method.weighs_tokens:
            nll = self._losses(state.last_hidden, ids, hidden[0])
            # Nothing predicts the first token of all, so nothing is more surprising.
            most = torch.finfo(torch.float32).max
            state.weigh(torch.from_numpy(np.nan_to_num(nll, nan=most)))
            state.last_hidden = hidden[0, -1].clone()
        state.end_pass(len(ids), attention.recurrent)
        return _Pass(ids, hidden[0], nll)

    def _room(self, state: StreamState, count: int) -> int:
        """How many of the next ``count`` tokens can be read in one pass."""
        room = state.room
        return count if room is None else min(count, room)

    def _losses(self, last: Tensor | None, ids: Ids, hidden: Tensor) -> NDArray[np.float32]:
        """Negative log-likelihood of each token, given those before it.

        Args:
            last: Hidden state ``[hidden]`` of the token before them; None if there is none.
            ids: The tokens.
            hidden: Their hidden states ``[n, hidden]``.

        Returns:
            In nats, ``[n]``; nan for a token that nothing precedes.
        """
        before = hidden[:-1] if last is None else torch.cat((last[None], hidden[:-1]))
        first = len(ids) - len(before)
        nll = np.full(len(ids), np.nan, dtype=np.float32)
        targets = torch.from_numpy(ids[first:].astype(np.int64))
        nll[first:] = self.model.losses(before, targets).loss.cpu().numpy()
        return nll

    def read(
        self, state: StreamState, blocks: Iterable[Ids], observe: Observer | None = None
    ) -> Iterator[Read]:
        """Prefill: read blocks of ids of any size, chunk by chunk."""
        for block in rechunk(blocks, self.chunk):
            for each in self._passes(state, block, observe):
                yield Read(state.tokens, each.hidden)

    def score(self, state: StreamState, blocks: Iterable[Ids]) -> Iterator[Scored]:
        """Read blocks of ids and score each token given those before it.

        Raises:
            ModelError: A logit is not finite.
            ResourceError: Memory ran out, and again with half the chunk.
        """
        last: Tensor | None = None
        passes = (self._passes(state, block) for block in rechunk(blocks, self.chunk))
        for ids, hidden, known in chain.from_iterable(passes):
            nll = self._losses(last, ids, hidden) if known is None else known
            if not np.isfinite(nll[int(last is None) :]).all():
                raise not_finite(state)
            last = hidden[-1].clone()
            yield Scored(state.tokens, nll)

    def _passes(
        self, state: StreamState, block: Ids, observe: Observer | None = None
    ) -> Iterator[_Pass]:
        """Read a block of ids, part by part.

        When memory runs out for the first time, the chunk is halved and the part read again.

        Raises:
            ResourceError: Memory ran out again, or the chunk could not be halved.
        """
        done = 0
        while done < len(block):
            part = block[done : done + self._room(state, self.chunk)]
            try:
                self._require_known(part)
                found = self._pass(state, part, observe)
            except (MemoryError, RuntimeError) as error:
                if not memory.ran_out(error):
                    raise
                # What has been observed could not be taken back.
                if self._halved or len(part) < 2 or observe is not None:
                    raise ResourceError(
                        f"out of memory after {state.tokens:,} tokens, {len(part):,} at a time",
                        hint="a smaller --window or --chunk, or --dtype bfloat16, takes less",
                    ) from error
                self._halved = True
                self.chunk = -(-len(part) // 2)
                state.undo_pass()
                continue
            done += len(part)
            yield found

    def decode(
        self,
        state: StreamState,
        last: Tensor,
        *,
        stop_ids: frozenset[int],
        limit: int,
        sampling: Sampling,
        index: int = 0,
    ) -> Iterator[Generated]:
        """Generate from the hidden state of the newest token.

        Args:
            state: After the prompt; it reads every generated token but the last.
            last: Hidden state ``[hidden]`` of the last prompt token.
            stop_ids: Tokens that end the answer.
            limit: Largest number of tokens.
            sampling: How tokens are chosen.
            index: Number of the question, for the random generator.

        Raises:
            ModelError: A logit is not finite.
        """
        generator = sampling.generator(index)
        tokens: list[int] = []
        while True:
            (logits,) = self.model.logits_in_slices(last[None], 1)
            if not bool(logits.max().isfinite()):  # nan, +inf, or -inf everywhere
                raise not_finite(state)
            token = sampling.choose(logits[0], generator)
            tokens.append(token)
            reason = None
            if token in stop_ids:
                reason = "stop"
            elif len(tokens) >= limit:
                reason = "length"
            elif loops(tokens):
                reason = "loop"
            yield Generated(token, reason)
            if reason is not None:
                return
            for each in self._passes(state, np.array([token], dtype=np.int32)):
                last = each.hidden[-1]


def _rescaled(
    model: LanguageModel, layers: list[LayerSpec], scaling: RopeScaling
) -> list[LayerSpec]:
    if all(layer.rotary is None for layer in layers):
        raise ModelError(
            f"this {model.family} model has no rotary frequencies, so --rope-scaling "
            f"{scaling.kind} cannot be applied to it",
            hint="leave --rope-scaling out",
        )
    found = scaled(layers, scaling, model.trained_length)
    if found is None:
        raise ModelError(
            f"the rotary frequencies of this {model.family} model are scaled already, so "
            f"--rope-scaling {scaling.kind} cannot be applied to them",
            hint="leave --rope-scaling out",
        )
    return found


def rechunk(blocks: Iterable[Ids], size: int) -> Iterator[Ids]:
    """Cut blocks of any size into blocks of exactly ``size`` ids, except the last."""
    held: list[Ids] = []
    count = 0
    for block in blocks:
        while len(block):
            part = block[: size - count]
            block = block[len(part) :]
            held.append(part)
            count += len(part)
            if count == size:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


_LOOP_TOKENS = 64
_LOOP_TURNS = 4


def loops(tokens: list[int]) -> bool:
    """Whether the tail repeats itself: at least four times, over at least 64 tokens."""
    for period in range(1, len(tokens) // _LOOP_TURNS + 1):
        length = max(_LOOP_TOKENS, _LOOP_TURNS * period)
        if length > len(tokens) or period > _LOOP_TOKENS:
            return False
        tail = tokens[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def not_finite(state: StreamState) -> ModelError:
    """The error of a logit that is not finite, somewhere in what a state has read."""
    return ModelError(
        f"the model gave non-finite logits within the first {state.tokens:,} tokens",
        hint="its weights may be damaged; try --dtype float32",
    )
