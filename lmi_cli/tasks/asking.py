"""The one asker: answers questions about a document that has been read.

An answer is based on the whole text if the model sees all of it; otherwise on passages that are
read again, on the store, or on the window alone.
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
from lmi_cli.tasks.evidence import LISTED, evidence_of
from lmi_cli.tasks.finder import RANKS, Finder, Ranked, nearest_last
from lmi_cli.tasks.plan import require_fit
from lmi_cli.tasks.reading import Reading, engine_of
from lmi_cli.tasks.report import Answer, Evidence, Visible
from lmi_cli.text.prompts import Prompts, Turn
from lmi_cli.text.tokenizer import IncrementalDecoder

REREAD_PASSAGES = 2
"""Number of passages that are read again before a question; see ``docs/memory.md``."""

_CONVERSATION_SHARE = 8


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How questions are asked and answered.

    Of the method, only options that reading does not fix are used; ``answer_from`` is one of
    ``plan.ANSWER_FROM``, and ``rank`` one of ``finder.RANKS``.
    """

    prompts: Prompts
    method: MethodChoice = field(default_factory=MethodChoice)
    answer_from: str = "auto"
    max_new_tokens: int = ANSWER_TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    rank: str = RANKS[0]


class Asker:
    """Asks the model that read a document about it; the reading is not changed.

    Attributes:
        timing: Time of reading and of all answers so far.

    Raises:
        StateFileError: The document was read after another prefix than that of these prompts.
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
                "the document was read with another beginning of the prompt",
                hint="a short document is read after the system text: with --system, read it again",
            )
        self._searching: Method | None = None
        if "store" in reading.stores:
            layers = len(model.known.facts.layers)
            self._searching = options.method.searching(reading.plan.method, layers)
        self._finder: Finder | None = None
        if reading.means is not None or "index" in reading.stores:
            self._finder = Finder(model, self._engine, reading, self._prompt, options.rank)
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
            question: As typed by the user.
            index: Number of the question, for the random generator.
            earlier: Turns of the conversation so far; the oldest are dropped if they do not fit.
            answer_from: Overrides that of the options.

        Raises:
            UsageError: The question does not fit the window, or the index or store that the answer
                needs was not kept.
        """
        started = time.monotonic()
        self.require_fit(question)
        # A follow-up question is rarely clear without the one before it.
        ranked = self.ranked(" ".join([*(asked for asked, _ in earlier[-1:]), question]))
        tail = self._tail(question, earlier)
        hidden = self._hidden_spans(len(tail))
        source = answer_from or self.options.answer_from
        source = self._source(ranked, source) if hidden else "whole"
        engine, ids, reread = self._engine, np.array(tail, dtype=np.int32), list[Passage]()
        if source == "passages":
            reread = nearest_last([item.passage for item in ranked[:REREAD_PASSAGES]])
            engine, ids = self._reread(reread, question, earlier)
            state = engine.start()
        elif source == "memory":
            state = self.reading.state.fork(self._searching, self.reading.stores)
        else:
            state = self.reading.state.fork()
        visible = self._visible(source, hidden, reread)
        last = self.reading.last
        for event in engine.read(state, [ids]):
            last = event.last
        text, reason, count = yield from self._answer(engine, state, last, index, started)
        self._generated += count
        self.timing.add_decode(self._generated, time.monotonic() - started)
        evidence = self.evidence(ranked)
        return Answer(question, text, reason, count, visible, source, evidence)

    def ranked(self, question: str) -> list[Ranked]:
        """The passages of the document, best first; none without an index."""
        return [] if self._finder is None else self._finder.rank(question)

    def evidence(
        self, ranked: Sequence[Ranked], count: int = LISTED, around: int = 0
    ) -> list[Evidence]:
        """The best of the passages ranked last, with the sentences that matter in them."""
        reading = self.reading
        return evidence_of(reading.document, reading.sources, ranked, self._finder, count, around)

    def require_fit(self, *questions: str) -> None:
        """Refuse questions that are longer than the window, with a ``UsageError``."""
        require_fit(self.reading.plan.method, self._prompt, questions)

    def _answer(
        self, engine: Engine, state: StreamState, last: Tensor, index: int, started: float
    ) -> Generator[Delta, None, tuple[str, str, int]]:
        """Decode; return the text of the answer, its finish reason and its number of tokens."""
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

    def _source(self, ranked: Sequence[Ranked], wanted: str) -> str:
        """The basis of the answer if the document is not seen whole."""
        if wanted == "auto":
            wanted = "passages" if ranked else "memory" if self._searching else "window"
        if wanted != "passages" and self.reading.plan.depth is not None:
            raise UsageError(
                "the document was read only for the index of retrieval heads",
                hint="read it with --index full to answer in another way",
            )
        if wanted == "passages" and not ranked:
            raise UsageError(
                "there are no passages to answer from",
                hint="passages need an index, kept while reading, and a model with retrieval heads",
            )
        if wanted == "memory" and self._searching is None:
            raise UsageError(
                "there is no memory to answer from", hint="lmi read --keep store keeps one"
            )
        return wanted

    def _tail(self, question: str, earlier: Sequence[Turn]) -> list[int]:
        """Ids of a question that follows the document and the conversation so far."""
        if not earlier:
            return self._prompt.tail(question)
        later = self.options.prompts.later_turn()
        asked, answers = zip(*earlier, strict=True)
        ids = self._prompt.tail(asked[0])
        for answer, following in zip(answers, [*asked[1:], question], strict=True):
            ids += self._model.tokenizer.encode(answer).ids.tolist() + later.tail(following)
        return ids if len(ids) <= self._conversation_limit else self._tail(question, earlier[1:])

    @property
    def _conversation_limit(self) -> int:
        """Tokens that a conversation may take: half of the window is left to the text."""
        window = self.reading.plan.method.local_window
        return (window or self._model.known.facts.trained_length) // 2

    @property
    def _reread_conversation_limit(self) -> int:
        """The same in a prompt of passages, which is shorter than the trained length."""
        return self._model.known.facts.trained_length // _CONVERSATION_SHARE

    def _reread(
        self, passages: Sequence[Passage], question: str, earlier: Sequence[Turn]
    ) -> tuple[Engine, Ids]:
        """The ids of a prompt with these passages, and an engine that attends to all of it."""
        prompt = self.options.prompts.around_passages(earlier)
        if earlier and len(prompt.prefix) > self._reread_conversation_limit:
            return self._reread(passages, question, earlier[1:])
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

        ``tail`` is the number of tokens between the document and the answer.
        """
        prefix, tokens = len(self.reading.plan.prefix), self.reading.document.tokens
        position = prefix + tokens + tail - 1
        layers = self._model.known.facts.layers
        hidden, edge = [], 0
        for start, stop in visible_in_any(self.reading.plan.method, layers, position):
            start, stop = min(tokens, max(0, start - prefix)), min(tokens, stop - prefix)
            if edge < start:
                hidden.append((edge, start))
            edge = max(edge, stop)
        return hidden if edge >= tokens else [*hidden, (edge, tokens)]

    def _visible(
        self, source: str, hidden: Sequence[tuple[int, int]], reread: Sequence[Passage]
    ) -> Visible:
        """The document tokens that the first token of an answer sees."""
        document = self.reading.document
        if source == "passages":
            again = sum(map(len, reread))
            searched = self.reading.stores["index"].tokens
            return Visible(0, 0, document.tokens - again, searched=searched, reread=again)
        if not hidden:
            return Visible(0, document.tokens, 0)
        first, stop = hidden[0][0], hidden[-1][1]
        unseen, window = sum(end - begin for begin, end in hidden), document.tokens - stop
        places = document.place(first), document.place(stop - 1)
        visible = Visible(document.tokens - unseen - window, window, unseen, *places)
        if source == "memory" and self._searching is not None:
            layers = self._model.known.facts.layers
            segments = (item for layer in layers for item in self._searching.segments(layer))
            topk = max(segment.topk or 0 for segment in segments)
            visible.searched, visible.attended = unseen, min(topk, unseen)
        return visible
