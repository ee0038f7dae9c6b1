"""A model that writes sentences about texts, each of which fits the trained length.

It may repeat itself or its instruction. Sentences that do are left out.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine import CHUNK, SPECULATE
from lmi_cli.engine.batch import decode_batch
from lmi_cli.engine.drafts import Drafts
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import ModelError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.known import KnownModel
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.report import Timing
from lmi_cli.text.prompts import Prompt, Prompts
from lmi_cli.text.sentences import is_whole, sentences, words

SENTENCE_TOKENS = 64
"""Tokens that are allowed for a sentence."""
_LOOP_WORDS = 6
"""Where so many words come again in the same order, a loop has begun."""
_PART_SHARE = 2
"""Notes and text together take at most one in so many parts of the trained length."""


class Writer:
    """Writes sentences about texts that fit the trained length.

    Args:
        model: The model that writes.
        prompts: Around a text and an instruction, which needs no label.
        sampling: How tokens are chosen.
        chunk: Tokens in one forward pass.
        speculate: One of :data:`lmi_cli.engine.SPECULATE`.

    Attributes:
        read: Tokens read so far.
        generated: Tokens written so far.
        dropped: Sentences left out so far.
        timing: Time of reading and of writing.
    """

    def __init__(
        self,
        model: Loaded,
        prompts: Prompts,
        sampling: Sampling,
        chunk: int = CHUNK,
        speculate: str = SPECULATE[0],
    ) -> None:
        self._model, self._sampling = model, sampling
        self._tokenizer = model.tokenizer
        self._prompt = prompts.whole()
        length = model.known.facts.trained_length
        method = MethodChoice().build(length, len(self._tokenizer.prefix))
        self._engine = Engine(model.lm, method, chunk, longest=length)
        self.read = self.generated = self.dropped = 0
        self.timing = Timing()
        # What a text says stands in its own prompt, so nothing else has to be searched.
        self._drafts = Drafts(model.lm, speculate, np.empty(0, dtype=np.int32))

    def room(self, instruction: str, count: int) -> int:
        """Tokens of the longest text that can be summarised in ``count`` sentences.

        Raises:
            ModelError: There is no room for any text.
        """
        return room_for(self._model.known, self._prompt, instruction, count)

    def ids(self, text: str) -> Ids:
        """The tokens of a text that has been written."""
        return self._tokenizer.encode(text).ids

    def write(
        self, texts: Sequence[Ids], instruction: str, count: int, number: int
    ) -> list[list[str]]:
        """At most ``count`` sentences about each text; those written twice are left out.

        ``number`` is that of the first text, for the random generators.
        """
        started = time.monotonic()
        states, last, prompts = [], [], []
        tail = self._prompt.tail(instruction)
        for text in texts:
            states.append(self._engine.start())
            prompts.append(np.array([*self._prompt.prefix, *text.tolist(), *tail], dtype=np.int32))
            last.append(self._read(states[-1], prompts[-1]))
        said = self._decoded(states, last, prompts, count, number, started)
        return [self._sentences(each, instruction, count) for each in said]

    def write_behind(
        self, text: Ids, more: Sequence[Ids], instructions: Sequence[str], count: int, number: int
    ) -> list[str]:
        """What is written about one text with something else behind it, as each instruction says.

        The text is read once. ``more`` has as many ids as there are instructions; ``number`` is
        that of the first, for the random generators.
        """
        started = time.monotonic()
        begun, before = self._engine.start(), [*self._prompt.prefix, *text.tolist()]
        self._read(begun, np.array(before, dtype=np.int32))
        states, last, prompts = [], [], []
        for ids, instruction in zip(more, instructions, strict=True):
            states.append(begun.fork())
            tail = np.array([*ids.tolist(), *self._prompt.tail(instruction)], dtype=np.int32)
            prompts.append(np.array([*before, *tail.tolist()], dtype=np.int32))
            last.append(self._read(states[-1], tail))
        return self._decoded(states, last, prompts, count, number, started)

    def _read(self, state: StreamState, ids: Ids) -> Tensor:
        """Read at least one token; returns the hidden state ``[hidden]`` of the last one."""
        for event in self._engine.read(state, [ids]):
            newest = event.last
        self.read += len(ids)
        return newest

    def _decoded(
        self,
        states: Sequence[StreamState],
        last: Sequence[Tensor],
        prompts: Sequence[Ids],
        count: int,
        number: int,
        started: float,
    ) -> list[str]:
        """What is written behind each prompt, until there are ``count`` sentences or a loop."""
        reading = time.monotonic()
        tokens: list[list[int]] = [[] for _ in prompts]
        drafters = self._drafts.of(prompts)
        for stream, generated in decode_batch(
            self._engine,
            states,
            last,
            stop_ids=self._tokenizer.stop_ids,
            limit=count * SENTENCE_TOKENS,
            sampling=self._sampling,
            first=number,
            drafters=drafters,
            enough=lambda stream, tokens: self._is_enough(tokens, count),
        ):
            if generated.token not in self._tokenizer.stop_ids:
                tokens[stream].append(generated.token)
        self.generated += sum(map(len, tokens))
        self.timing.add_prefill(self.read, reading - started)
        self._drafts.keep(drafters)
        seconds = time.monotonic() - reading
        self.timing.add_decode(self.generated, seconds, self._drafts.passes)
        return [self._tokenizer.decode(each) for each in tokens]

    def _is_enough(self, tokens: Sequence[int], count: int) -> bool:
        """Whether there are enough sentences, or a loop begins."""
        said = list(said_in(self._tokenizer.decode(tokens)))
        # A full stop ends a sentence only if the next one has begun: "read." may be "read.table".
        return len(said) > count or len(set(said)) < len(said) or any(map(loops_in, said))

    def _sentences(self, text: str, instruction: str, count: int) -> list[str]:
        kept: list[str] = []
        asked = set(words(instruction))
        for sentence in said_in(text):
            found = set(words(sentence))
            echo = len(found & asked) > 0.5 * len(found)
            fresh = sentence not in kept and not loops_in(sentence)
            if is_whole(sentence) and not echo and fresh and len(kept) < count:
                kept.append(sentence)
            else:
                self.dropped += 1
        return kept


def room_for(known: KnownModel, prompt: Prompt, instruction: str, count: int) -> int:
    """Tokens of the longest text about which a model can write ``count`` sentences.

    Raises:
        ModelError: There is no room for any text.
    """
    length = known.facts.trained_length
    around = len(prompt.prefix) + len(prompt.tail(instruction))
    room = length // _PART_SHARE - around - count * SENTENCE_TOKENS
    if room < 1:
        raise ModelError(
            f"the trained length of {length:,} tokens leaves no room for parts of a text",
            hint="--strategy extract summarises without a model",
        )
    return room


def said_in(text: str) -> Iterator[str]:
    """The sentences of a text, each in one line."""
    for begin, end in sentences(text):
        yield " ".join(text[begin:end].split())


def loops_in(text: str) -> bool:
    """Whether some words come again in the same order."""
    said = text.lower().split()
    runs = [tuple(said[at : at + _LOOP_WORDS]) for at in range(len(said) - _LOOP_WORDS + 1)]
    return len(set(runs)) < len(runs)
