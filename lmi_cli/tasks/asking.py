"""The one asker: answers questions about a document that has been read.

An answer is based on the whole text if the model sees all of it; otherwise on passages that are
read again, on the store, or on the window alone.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine import ANSWER_TOKENS, CONTRAST, SPECULATE
from lmi_cli.engine.batch import Contrast, decode_batch
from lmi_cli.engine.drafts import Drafts
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import Method, MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.answer_text import AnswerText
from lmi_cli.tasks.document import Passage
from lmi_cli.tasks.events import Delta
from lmi_cli.tasks.evidence import LISTED, evidence_of
from lmi_cli.tasks.finder import Finder, Ranked, read_again
from lmi_cli.tasks.headings import Sections
from lmi_cli.tasks.plan import RANKS, require_fit
from lmi_cli.tasks.reading import Reading, engine_of
from lmi_cli.tasks.report import Answer, Evidence, Quote, Visible
from lmi_cli.tasks.sight import hidden_spans, prompt_text, visible_beside, visible_passages
from lmi_cli.text.prompts import Prompts, Turn

_TOGETHER = 8
"""Questions that are answered at the same time."""

_CONVERSATION_SHARE = 8


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How questions are asked and answered.

    Of the method, only options that reading does not fix are used; ``answer_from`` is one of
    ``plan.ANSWER_FROM``, ``rank`` one of ``plan.RANKS``, and ``speculate`` one of
    :data:`lmi_cli.engine.SPECULATE`. ``contrast`` is the weight of
    :class:`lmi_cli.engine.batch.Contrast` in answers from passages. ``answer_text`` decides what
    of an answer is kept. Without ``evidence``, passages are ranked only for answers from them.
    """

    prompts: Prompts
    method: MethodChoice = field(default_factory=MethodChoice)
    answer_from: str = "auto"
    max_new_tokens: int = ANSWER_TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    rank: str = RANKS[0]
    contrast: float = CONTRAST
    speculate: str = SPECULATE[0]
    show_prompt: bool = False
    answer_text: type[AnswerText] = AnswerText
    evidence: bool = True


@dataclass(frozen=True, slots=True)
class _Begun:
    """A question, before its answer is generated.

    Attributes:
        answer: Without its text.
        index: Number of the question.
        source: The basis of the answer.
        ids: What is read before it is generated.
        without: The same without passages, if these are in it.
        started: When ranking began, in seconds of the monotonic clock.
    """

    answer: Answer
    index: int
    source: str
    ids: Ids
    without: Ids | None
    started: float


class Asker:
    """Asks the model that read a document about it; the reading is not changed.

    Attributes:
        timing: Time of reading and of all answers so far.
        ranked_for: Called with the number of each question and the passages ranked for it.

    Raises:
        StateFileError: The document was read after another prefix than that of these prompts.
        UsageError: Parameters of the search contradict each other.
    """

    def __init__(self, model: Loaded, reading: Reading, options: AnswerOptions) -> None:
        self.reading = reading
        self.options = options
        self.timing = reading.timing()
        self.ranked_for: Callable[[int, Sequence[Ranked]], None] = lambda index, ranked: None
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
        self._sections = Sections(reading.document, reading.sources)
        self._generated = 0
        self._drafts = Drafts(model.lm, options.speculate, reading.document.ids)

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
        self.require_fit(question)
        answer: Answer | None = None
        for event in self._answer([self._begin(question, index, earlier, answer_from)]):
            if isinstance(event, Answer):
                answer = event
            else:
                yield event
        if answer is None:
            raise RuntimeError("there is no answer")
        return answer

    def ask_all(
        self, questions: Sequence[str], first: int = 0
    ) -> Generator[Delta | Answer, None, list[Answer]]:
        """Answer questions in their order, each as if it were asked alone, apart from rounding.

        They are numbered from ``first``. Those answered from passages are decoded together.

        Raises:
            UsageError: See :meth:`ask`.
        """
        self.require_fit(*questions)
        answers: list[Answer] = []
        for begin in range(0, len(questions), _TOGETHER):
            some = questions[begin : begin + _TOGETHER]
            begun = (self._begin(text, first + begin + at) for at, text in enumerate(some))
            for rereads, group in groupby(begun, lambda it: it.source == "passages"):
                # The others have large states of their own.
                for each in [list(group)] if rereads else ([one] for one in group):
                    for event in self._answer(each):
                        if isinstance(event, Answer):
                            answers.append(event)
                        yield event
        return answers

    def ranked(self, question: str) -> list[Ranked]:
        """The passages of the document, best first; none without an index."""
        return [] if self._finder is None else self._finder.rank(question)

    def evidence(
        self, ranked: Sequence[Ranked], count: int = LISTED, around: int = 0
    ) -> list[Evidence]:
        """The best of the passages ranked last, with the sentences that matter in them."""
        reading = self.reading
        return evidence_of(
            reading.document,
            reading.sources,
            ranked,
            self._finder,
            count,
            around,
            self._sections,
        )

    def require_fit(self, *questions: str) -> None:
        """Refuse questions that are longer than the window, with a ``UsageError``."""
        require_fit(self.reading.plan.method, self._prompt, questions)

    def _begin(
        self,
        question: str,
        index: int,
        earlier: Sequence[Turn] = (),
        answer_from: str | None = None,
    ) -> "_Begun":
        """Rank the passages for a question, and decide what its answer is based on."""
        started = time.monotonic()
        tail = self._tail(question, earlier)
        hidden = hidden_spans(self.reading, self._model.known.facts.layers, len(tail))
        source = answer_from or self.options.answer_from
        unseen = hidden or self.reading.plan.depth is not None
        ranked: list[Ranked] = []
        if self.options.evidence or unseen:
            # A follow-up question is rarely clear without the one before it.
            ranked = self.ranked(" ".join([*(asked for asked, _ in earlier[-1:]), question]))
            self.ranked_for(index, ranked)
        evidence = self.evidence(ranked)
        source = self._source(ranked, source) if unseen else "whole"
        ids, without, reread = np.array(tail, dtype=np.int32), None, list[Passage]()
        if source == "passages":
            reread = read_again(ranked)
            ids, without = self._reread(reread, evidence[0].quotes, question, earlier)
        visible = self._visible(source, hidden, reread)
        prompt = None
        if self.options.show_prompt:
            whole = None if source == "passages" else self.reading
            prompt = prompt_text(
                self._model.tokenizer, whole, hidden, ids, searched=source == "memory"
            )
        answer = Answer(question, "", "", 0, visible, source, evidence, prompt)
        return _Begun(answer, index, source, ids, without, started)

    def _answer(self, group: Sequence["_Begun"]) -> Iterator[Delta | Answer]:
        """Generate the answers to some questions together; yield them in their order."""
        source = group[0].source
        engine = self._engine
        if source == "passages":
            engine = self._passage_engine(max(len(begun.ids) for begun in group))
        states, last, contrasts = [], [], list[Contrast | None]()
        for begun in group:
            state = self._state(engine, source)
            states.append(state)
            last.append(_read(engine, state, begun.ids, self.reading.last))
            contrast = None
            if begun.without is not None and self.options.contrast:
                other = engine.start()
                prior = _read(engine, other, begun.without, self.reading.last)
                contrast = Contrast(other, prior, self.options.contrast)
            contrasts.append(contrast)
        tokenizer, text_of = self._model.tokenizer, self.options.answer_text
        stop_ids = tokenizer.stop_ids
        texts = [text_of(tokenizer, begun.answer.question) for begun in group]
        # Every token of a draft would search the store, which takes longer than all else.
        prompts = [begun.ids for begun in group]
        drafters = None if source == "memory" else self._drafts.of(prompts)
        decoding = time.monotonic()
        current, waiting, done = 0, [""] * len(group), [False] * len(group)
        for stream, generated in decode_batch(
            engine,
            states,
            last,
            stop_ids=stop_ids,
            limit=self.options.max_new_tokens,
            sampling=self.options.sampling,
            first=group[0].index,
            contrasts=contrasts,
            drafters=drafters,
            enough=lambda stream, tokens: texts[stream].push(tokens[-1]),
        ):
            if self.timing.first_token_s is None:
                self.timing.first_token_s = time.monotonic() - group[0].started
            reason, answer = generated.finish_reason, group[stream].answer
            waiting[stream] += texts[stream].take(final=reason is not None)
            if reason is not None:
                done[stream] = True
                answer.answer, answer.tokens = texts[stream].text, texts[stream].tokens
                answer.finish_reason = "loop" if texts[stream].repeats else reason
            while current < len(group):
                if waiting[current]:
                    yield Delta(group[current].index, waiting[current])
                    waiting[current] = ""
                if not done[current]:
                    break
                if current == len(group) - 1:
                    self._generated += sum(text.tokens for text in texts)
                    self._drafts.keep(drafters)
                    seconds = time.monotonic() - decoding
                    self.timing.add_decode(self._generated, seconds, self._drafts.passes)
                yield group[current].answer
                current += 1

    def _state(self, engine: Engine, source: str) -> StreamState:
        """The state behind which a question is asked."""
        if source == "passages":
            return engine.start()
        if source == "memory":
            return self.reading.state.fork(self._searching, self.reading.stores)
        return self.reading.state.fork()

    def _passage_engine(self, tokens: int) -> Engine:
        """An engine that attends to all of a prompt of so many tokens."""
        method = MethodChoice().build(
            self._model.known.facts.trained_length, len(self._model.tokenizer.prefix)
        )
        longest = tokens + self.options.max_new_tokens
        return Engine(self._model.lm, method, self.reading.plan.chunk, longest=longest)

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
                hint="passages need an index, which --no-memory and --keep store leave out",
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
        self,
        passages: Sequence[Passage],
        quotes: Sequence[Quote],
        question: str,
        earlier: Sequence[Turn],
    ) -> tuple[Ids, Ids]:
        """The ids of a prompt with these consecutive passages, and of the same without them.

        Behind the passages, the sentences of the best one that matter most are said again
        (``quotes``).
        """
        prompt = self.options.prompts.around_passages(earlier)
        if earlier and len(prompt.prefix) > self._reread_conversation_limit:
            return self._reread(passages, quotes, question, earlier[1:])
        tokenizer, document = self._model.tokenizer, self.reading.document
        parts: list[Ids] = [
            np.array(prompt.prefix, dtype=np.int32),
            document.ids[passages[0].first : passages[-1].stop],
        ]
        if said := " ".join(quote.text.strip() for quote in quotes):
            parts += [tokenizer.encode("\n\n").ids, tokenizer.encode(said).ids]
        tail = np.array(prompt.tail(question), dtype=np.int32)
        return np.concatenate([*parts, tail]), np.concatenate([parts[0], tail])

    def _visible(
        self, source: str, hidden: Sequence[tuple[int, int]], reread: Sequence[Passage]
    ) -> Visible:
        """The document tokens that the first token of an answer sees."""
        document = self.reading.document
        if source == "passages":
            searched = 0 if self._finder is None else self._finder.tokens
            return visible_passages(document, reread, searched)
        visible = visible_beside(document, hidden)
        if source == "memory" and self._searching is not None:
            layers = self._model.known.facts.layers
            segments = (item for layer in layers for item in self._searching.segments(layer))
            topk = max(segment.topk or 0 for segment in segments)
            visible.searched, visible.attended = visible.unseen, min(topk, visible.unseen)
        return visible


def _read(engine: Engine, state: StreamState, ids: Ids, last: Tensor) -> Tensor:
    """Read ids; return the hidden state of the newest token, ``last`` if there are none."""
    for event in engine.read(state, [ids]):
        last = event.last
    return last
