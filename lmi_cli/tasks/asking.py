"""The one asker: questions about a document that has been read.

Answers come from the whole text where the model sees all of it; otherwise from passages that are
read again, from the store, or from the window alone.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine import ANSWER_TOKENS
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import Method, MethodChoice
from lmi_cli.methods.base import visible_in_any
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Delta
from lmi_cli.tasks.evidence import Finder, Ranked, evidence_of, nearest_last
from lmi_cli.tasks.reading import Reading, engine_of
from lmi_cli.tasks.report import Answer, Visible
from lmi_cli.text.prompts import Prompts, Turn
from lmi_cli.text.tokenizer import IncrementalDecoder

REREAD_PASSAGES = 2
"""Number of passages that are read again in front of a question; see ``docs/memory.md``."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How questions are asked and answered.

    Attributes:
        prompts: The form of the prompts.
        method: The method that the user asked for; only what is not fixed by reading counts.
        answer_from: One of ``plan.ANSWER_FROM``.
        max_new_tokens: Longest answer.
        sampling: How tokens are chosen.
    """

    prompts: Prompts
    method: MethodChoice = field(default_factory=MethodChoice)
    answer_from: str = "auto"
    max_new_tokens: int = ANSWER_TOKENS
    sampling: Sampling = field(default_factory=Sampling)


class Asker:
    """Asks questions about one reading, which is not changed.

    Args:
        model: The model that read it.
        reading: The document.
        options: How questions are asked.

    Attributes:
        timing: Of reading and of all answers so far.

    Raises:
        StateFileError: The document was read behind another prefix than these prompts have.
        UsageError: Parameters of the search contradict each other.
    """

    def __init__(self, model: Loaded, reading: Reading, options: AnswerOptions) -> None:
        self.reading = reading
        self.options = options
        self.timing = reading.timing()
        self._model = model
        self._engine = engine_of(model, reading.plan)
        prompts = options.prompts
        self._prompt = prompts.whole() if reading.plan.fits else prompts.after_stream()
        if self._prompt.prefix != reading.plan.prefix:
            raise StateFileError(
                "the document was read behind another beginning of the prompt",
                hint="a short document is read inside the first turn: --system needs the sources",
            )
        self._searching: Method | None = None
        if "store" in reading.stores:
            layers = len(model.known.facts.layers)
            self._searching = options.method.searching(reading.plan.method, layers)
        self._finder: Finder | None = None
        if reading.heads is not None and "index" in reading.stores:
            self._finder = Finder(
                self._engine,
                reading.heads,
                reading.stores["index"],
                reading.document.borders,
                len(reading.plan.prefix),
                self._prompt.tail,
            )
        self._generated = 0

    def ask(
        self,
        question: str,
        index: int = 0,
        earlier: Sequence[Turn] = (),
        *,
        answer_from: str | None = None,
    ) -> Generator[Delta, None, Answer]:
        """Answer a question.

        Args:
            question: As the user asked it.
            index: Number of the question, for the random generator.
            earlier: Turns of the conversation so far; the oldest are dropped if they do not fit.
            answer_from: As in the options, and in the place of it.

        Raises:
            UsageError: The question does not fit the window, or what the answer is to come from was
                not kept.
        """
        started = time.monotonic()
        self.require_fit(question)
        # A follow-up question is seldom clear without the one before it.
        ranked = self.rank(" ".join([*(asked for asked, _ in earlier[-1:]), question]))
        tail = self._tail(question, earlier)
        source = self._source(ranked, len(tail), answer_from or self.options.answer_from)
        engine, ids, reread = self._engine, np.array(tail, dtype=np.int32), list[Passage]()
        if source == "passages":
            reread = nearest_last([item.passage for item in ranked[:REREAD_PASSAGES]])
            engine, ids = self._reread(reread, question, earlier)
            state = engine.start()
        elif source == "memory":
            state = self.reading.state.fork(self._searching, self.reading.stores)
        else:
            state = self.reading.state.fork()
        visible = self._visible(source, len(tail), reread)
        last = self.reading.last
        for event in engine.read(state, [ids]):
            last = event.last
        text, reason, count = yield from self._answer(engine, state, last, index, started)
        self._generated += count
        self.timing.add_decode(self._generated, time.monotonic() - started)
        evidence = evidence_of(self.reading.document, self.reading.sources, ranked)
        return Answer(question, text, reason, count, visible, source, evidence)

    def rank(self, question: str) -> list[Ranked]:
        """Rank the passages of the document, best first; empty without an index."""
        if self._finder is None or not self.reading.stores["index"].tokens:
            return []
        return self._finder.rank(self.reading.state, question)

    def require_fit(self, question: str) -> None:
        """Refuse a question that does not fit the window.

        Raises:
            UsageError: It does not.
        """
        window, needed = self.reading.plan.method.local_window, len(self._prompt.tail(question))
        if window is not None and needed > window:
            raise UsageError(
                f"a question of {needed:,} tokens does not fit the window of {window:,}",
                hint="shorten the question or raise --window",
            )

    def _answer(
        self, engine: Engine, state: StreamState, last: Tensor, index: int, started: float
    ) -> Generator[Delta, None, tuple[str, str, int]]:
        """Generate; return the text of the answer, its finish reason and its number of tokens."""
        tokenizer = self._model.tokenizer
        decoder = IncrementalDecoder(tokenizer)
        parts: list[str] = []
        count, reason = 0, "length"
        for generated in engine.decode(
            state,
            last,
            stop_ids=tokenizer.stop_ids,
            limit=self.options.max_new_tokens,
            sampling=self.options.sampling,
            index=index,
        ):
            if self.timing.first_token_s is None:
                self.timing.first_token_s = time.monotonic() - started
            text = ""
            if generated.finish_reason != "stop":
                count += 1
                text = decoder.push(generated.token)
            if generated.finish_reason is not None:
                reason = generated.finish_reason
                text += decoder.flush()
            if not parts:
                text = text.lstrip()
            if text:
                parts.append(text)
                yield Delta(index, text)
        return "".join(parts), reason, count

    def _source(self, ranked: Sequence[Ranked], tail: int, wanted: str) -> str:
        """What the answer comes from; see :class:`lmi_cli.tasks.report.Answer`."""
        if self._hidden_spans(tail) == []:
            return "whole"
        if wanted == "auto":
            wanted = "passages" if ranked else "memory" if self._searching else "window"
        if wanted == "passages" and not ranked:
            raise UsageError(
                "there are no passages to answer from",
                hint="passages take an index, kept while reading, and a model with retrieval heads",
            )
        if wanted == "memory" and self._searching is None:
            raise UsageError(
                "there is no memory to answer from", hint="read again with --keep store"
            )
        return wanted

    def _tail(self, question: str, earlier: Sequence[Turn]) -> list[int]:
        """Ids of a question behind the document, and behind the conversation so far."""
        if not earlier:
            return self._prompt.tail(question)
        later = self.options.prompts.later_turn()
        asked, answers = zip(*earlier, strict=True)
        ids = self._prompt.tail(asked[0])
        for answer, following in zip(answers, [*asked[1:], question], strict=True):
            ids += self._model.tokenizer.encode(answer).ids.tolist() + later.tail(following)
        if len(ids) <= self._conversation_limit:
            return ids
        return self._tail(question, earlier[1:])

    @property
    def _conversation_limit(self) -> int:
        """Tokens that a conversation may take, so that half of the window is left to the text."""
        window = self.reading.plan.method.local_window
        return (window or self._model.known.facts.trained_length) // 2

    def _reread(
        self, passages: Sequence[Passage], question: str, earlier: Sequence[Turn]
    ) -> tuple[Engine, Ids]:
        """A prompt with these passages, and an engine that reads as the stock model does."""
        prompt = self.options.prompts.around_passages(earlier)
        while earlier and len(prompt.prefix) > self._conversation_limit:
            earlier = earlier[1:]
            prompt = self.options.prompts.around_passages(earlier)
        tokenizer, document = self._model.tokenizer, self.reading.document
        gap = tokenizer.encode("\n\n").ids
        parts: list[Ids] = [np.array(prompt.prefix, dtype=np.int32)]
        for number, passage in enumerate(passages):
            if number and passages[number - 1].stop != passage.first:
                parts.append(gap)
            parts.append(document.ids[passage.first : passage.stop])
        parts.append(np.array(prompt.tail(question), dtype=np.int32))
        ids = np.concatenate(parts)
        method = MethodChoice().build(self._model.known.facts.trained_length, len(tokenizer.prefix))
        longest = len(ids) + self.options.max_new_tokens
        return Engine(self._model.lm, method, self.reading.plan.chunk, longest=longest), ids

    def _hidden_spans(self, tail: int) -> list[tuple[int, int]]:
        """Ranges of document tokens that the first token of an answer does not attend to.

        Args:
            tail: Tokens between the document and the answer.
        """
        prefix, tokens = len(self.reading.plan.prefix), self.reading.document.tokens
        position = prefix + tokens + tail - 1
        layers = self._model.known.facts.layers
        hidden, edge = [], 0
        for start, stop in visible_in_any(self.reading.plan.method, layers, position):
            start, stop = max(0, start - prefix), min(tokens, stop - prefix)
            if edge < min(start, tokens):
                hidden.append((edge, min(start, tokens)))
            edge = max(edge, stop)
        return hidden if edge >= tokens else [*hidden, (edge, tokens)]

    def _visible(self, source: str, tail: int, reread: Sequence[Passage]) -> Visible:
        """What the first token of an answer sees, ``tail`` tokens behind the document."""
        document = self.reading.document
        if source == "passages":
            again = sum(len(passage) for passage in reread)
            searched = self.reading.stores["index"].tokens
            return Visible(0, 0, document.tokens - again, searched=searched, reread=again)
        hidden = self._hidden_spans(tail)
        if not hidden:
            return Visible(0, document.tokens, 0)
        first, stop = hidden[0][0], hidden[-1][1]
        unseen = sum(end - begin for begin, end in hidden)
        window = document.tokens - stop
        visible = Visible(
            document.tokens - unseen - window,
            window,
            unseen,
            document.place(first),
            document.place(stop - 1),
        )
        if source == "memory" and self._searching is not None:
            topk = max(
                segment.topk or 0
                for layer in self._model.known.facts.layers
                for segment in self._searching.segments(layer)
            )
            visible.searched, visible.attended = unseen, min(topk, unseen)
        return visible
