"""The one asker: answers questions about a document that has been read.

An answer is based on the whole text if the model sees all of it; otherwise on passages that are
read again, on the store, on the window alone, or on what is found part by part with each question.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from torch import Tensor

from lmi_cli.cache.state import StreamState
from lmi_cli.engine import ANSWER_TOKENS, CONTRAST, MEASURES, SPECULATE
from lmi_cli.engine.batch import Contrast, decode_batch
from lmi_cli.engine.drafts import Drafts
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import Method, MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.answer_text import AnswerText
from lmi_cli.tasks.events import Delta, Progress
from lmi_cli.tasks.evidence import LISTED, evidence_of
from lmi_cli.tasks.finder import Finder, Ranked
from lmi_cli.tasks.headings import Sections
from lmi_cli.tasks.partwise import Partwise
from lmi_cli.tasks.plan import ORDERS, PARTWISE, RANKS, require_fit
from lmi_cli.tasks.prompting import QuestionPrompts, looked_for
from lmi_cli.tasks.reading import Reading, engine_of
from lmi_cli.tasks.report import Answer, Evidence
from lmi_cli.tasks.rereading import Basis, best_passages
from lmi_cli.tasks.sight import (
    hidden_spans,
    prompt_text,
    searched_tokens,
    visible_of,
)
from lmi_cli.text.prompts import Prompts, Turn

_TOGETHER = 8
"""Questions that are answered at the same time."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How questions are asked and answered.

    Of the method, only options that reading does not fix are used; ``answer_from`` is one of
    ``plan.ANSWER_FROM``, ``rank`` one of ``plan.RANKS``, ``passage_order`` one of ``plan.ORDERS``,
    and ``speculate`` one of :data:`lmi_cli.engine.SPECULATE`. ``contrast`` is the weight of
    :class:`lmi_cli.engine.batch.Contrast` in answers from passages, segments and notes. At most
    ``passages`` passages or segments are read again; None for as many as is usual. ``measure``, by
    which segments are ranked, is one of :data:`lmi_cli.engine.MEASURES`. ``answer_text``
    decides what of an answer is kept. Without ``evidence``, passages are ranked only for answers
    from them.
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
    passages: int | None = None
    passage_order: str = ORDERS[0]
    measure: str = MEASURES[0]
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
        without: The same without what the answer is based on, if that is in it; the prompt is then
            a sequence of its own.
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
        if reading.means is not None or "index" in reading.stores or reading.plan.words:
            self._finder = Finder(model, self._engine, reading, self._prompt, options.rank)
        length = model.known.facts.trained_length
        window = reading.plan.method.local_window or length
        self._prompts = QuestionPrompts(model.tokenizer, prompts, self._prompt, window, length)
        self._sections = Sections(reading.document, reading.sources)
        self._partwise = Partwise(model, reading, self._sections, options)
        self._generated = 0
        self._drafts = Drafts(model.lm, options.speculate, reading.document.ids)

    def ask(
        self,
        question: str,
        index: int = 0,
        earlier: Sequence[Turn] = (),
        *,
        answer_from: str | None = None,
    ) -> Generator[Delta | Progress, None, Answer]:
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
        source, started = answer_from or self.options.answer_from, time.monotonic()
        (basis,) = yield from self._bases(source, [question], index, earlier)
        begun = self._begin(question, index, source, basis, started, earlier)
        for event in self._answer([begun]):
            if isinstance(event, Answer):
                answer = event
            else:
                yield event
        if answer is None:
            raise RuntimeError("there is no answer")
        return answer

    def ask_all(
        self, questions: Sequence[str], first: int = 0
    ) -> Generator[Delta | Answer | Progress, None, list[Answer]]:
        """Answer questions in their order, each as if it were asked alone, apart from rounding.

        They are numbered from ``first``. Those answered from passages are decoded together.

        Raises:
            UsageError: See :meth:`ask`.
        """
        self.require_fit(*questions)
        answers, bases = list[Answer](), list[Basis | None]()
        source = self.options.answer_from
        # Segments are read once for all questions, but notes are not taken for all at once.
        shared = len(questions) if source == "xl3m" else _TOGETHER
        for begin in range(0, len(questions), _TOGETHER):
            started = time.monotonic()
            if begin == len(bases):
                some = questions[begin : begin + shared]
                bases += yield from self._bases(source, some, first + begin)
            begun = (
                self._begin(questions[at], first + at, source, bases[at], started)
                for at in range(begin, min(begin + _TOGETHER, len(questions)))
            )
            for fresh, group in groupby(begun, lambda it: it.without is not None):
                # The others have large states of their own.
                for each in [list(group)] if fresh else ([one] for one in group):
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
        document, sources = self.reading.document, self.reading.sources
        return evidence_of(document, sources, ranked, self._finder, count, around, self._sections)

    def require_fit(self, *questions: str) -> None:
        """Refuse questions that are longer than the window, with a ``UsageError``."""
        if self.options.answer_from not in PARTWISE:
            require_fit(self.reading.plan.method, self._prompt, questions)

    def _begin(
        self,
        question: str,
        index: int,
        source: str,
        basis: Basis | None,
        started: float,
        earlier: Sequence[Turn] = (),
    ) -> "_Begun":
        """Decide what the answer to a question is based on; without a basis, rank the passages."""
        tail = self._prompts.tail(question, earlier)
        layers = self._model.known.facts.layers
        hidden = hidden_spans(self.reading, layers, len(tail))
        searched = searched_tokens(self.reading, self._searching, layers, len(tail))
        evidence = [] if basis is None else basis.evidence
        if basis is None:
            unseen = hidden or self.reading.plan.depth is not None or self.reading.plan.only_text
            # Where some layers or heads see everything, the others may have something to search.
            unseen = unseen or (source == "memory" and searched[0] > 0)
            ranked: list[Ranked] = []
            if self.options.evidence or (unseen and source in ("auto", "passages")):
                ranked = self.ranked(looked_for(question, earlier))
                self.ranked_for(index, ranked)
            evidence = self.evidence(ranked)
            source = self._source(ranked, source) if unseen else "whole"
            if source == "passages":
                basis = best_passages(
                    self.reading.document,
                    self._model.tokenizer,
                    ranked,
                    evidence[0].quotes,
                    self._room(question, earlier),
                    self.options.passages,
                    self.options.passage_order,
                )
        ids, without = np.array(tail, dtype=np.int32), None
        if basis is not None:
            ids, without = self._prompts.around(basis.text, question, earlier)
        reread = None if basis is None else basis.passages
        indexed = 0 if self._finder is None else self._finder.tokens
        visible = visible_of(
            self.reading, layers, source, hidden, len(tail), reread, searched, indexed
        )
        prompt = None
        if self.options.show_prompt:
            whole = None if without is not None else self.reading
            prompt = prompt_text(
                self._model.tokenizer, whole, hidden, ids, attended=visible.attended
            )
        answer = Answer(question, "", "", 0, visible, source, evidence, prompt=prompt)
        if basis is not None:
            answer.passages, answer.notes = len(basis.passages), basis.notes
        return _Begun(answer, index, source, ids, without, started)

    def _bases(
        self, source: str, questions: Sequence[str], first: int, earlier: Sequence[Turn] = ()
    ) -> Generator[Progress, None, Sequence[Basis | None]]:
        """What answers are based on, where that is found part by part; None elsewhere."""
        longest = max(len(self._prompts.tail(question, earlier)) for question in questions)
        hidden = hidden_spans(self.reading, self._model.known.facts.layers, longest)
        if source not in PARTWISE or (self.reading.plan.fits and not hidden):
            return [None] * len(questions)
        asked = [looked_for(question, earlier) for question in questions]
        rooms = [self._room(question, earlier) for question in questions]
        bases = yield from self._partwise.bases(source, asked, rooms, first)
        self.timing.parts_s = self._partwise.seconds
        return bases

    def _answer(self, group: Sequence["_Begun"]) -> Iterator[Delta | Answer]:
        """Generate the answers to some questions together; yield them in their order."""
        source = group[0].source
        engine = self._engine
        if group[0].without is not None:
            engine = self._passage_engine(max(len(begun.ids) for begun in group))
        states, last, contrasts = [], [], list[Contrast | None]()
        for begun in group:
            state = self._state(source) if begun.without is None else engine.start()
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

    def _state(self, source: str) -> StreamState:
        """The state of the reading behind which a question is asked."""
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
        if self.reading.plan.only_text and not (wanted == "passages" and ranked):
            raise UsageError(
                f"the document has not been read, so nothing can be answered from {wanted}",
                hint="--answer-from xl3m and chain need only its text",
            )
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

    def _room(self, question: str, earlier: Sequence[Turn]) -> int:
        return self._prompts.room(question, earlier, self.options.max_new_tokens)


def _read(engine: Engine, state: StreamState, ids: Ids, last: Tensor) -> Tensor:
    """Read ids; return the hidden state of the newest token, ``last`` if there are none."""
    for event in engine.read(state, [ids]):
        last = event.last
    return last
