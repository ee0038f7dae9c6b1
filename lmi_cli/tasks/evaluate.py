"""Answer the questions of tasks by one method, and keep the answers as they come.

Questions about the same text are asked after one reading, by the one asker.
"""

import contextlib
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from lmi_cli.errors import LmiError
from lmi_cli.evaluation.files import EvalTask
from lmi_cli.evaluation.item import EvalItem
from lmi_cli.evaluation.predictions import Predictions
from lmi_cli.evaluation.words import Words, WordsFile, words_for
from lmi_cli.methods.base import sees_everything
from lmi_cli.models.load import Loaded
from lmi_cli.processes import Processes
from lmi_cli.sources import Corpus
from lmi_cli.sources.blocks import text_corpus
from lmi_cli.tasks.answer_text import AnswerText, FirstLineText, VerbatimText
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.eval_report import EvalReport
from lmi_cli.tasks.events import Note, Progress, relay
from lmi_cli.tasks.finder import Ranked
from lmi_cli.tasks.gold import GoldPassages
from lmi_cli.tasks.method_for import method_for
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice, ReadingRequest
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.report import Answer
from lmi_cli.text.prompts import Prompts, prompts_of
from lmi_cli.text.stream import TokenStream
from lmi_cli.text.task_prompts import TaskPrompts

_QUESTION_COST = 4000
"""Characters of a text that take about as long to read as one answer takes."""


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """How questions of tasks are put, beside what their data sets say.

    Attributes:
        reading: How texts are read; prompts and length of answers are those of each task.
        answers: How questions are answered; likewise.
        words: Prompts by task; None puts the question as ``lmi qa`` does.
        system: Text of the system turn.
        chat: Whether prompts are put into the chat template of the model, where a task has them so.
        answer_tokens: Longest answer, in tokens; 0 is that of the data set.
        limit: Questions of each task, from the first; None asks all of them.
        open: Opens documents by their paths.
        require: Told what was read; may refuse it.
    """

    reading: ReadingRequest
    answers: AnswerOptions
    open: Callable[[Sequence[str]], Corpus]
    words: WordsFile | None = None
    system: str | None = None
    chat: bool = True
    answer_tokens: int = 0
    limit: int | None = None
    require: Callable[[Reading], None] = lambda reading: None


def limited(task: EvalTask, limit: int | None) -> tuple[EvalItem, ...]:
    """The questions of a task that are asked."""
    return task.items if limit is None else task.items[:limit]


def answer_tokens(task: EvalTask, request: EvalRequest) -> int:
    """Longest answer to the questions of a task, in tokens."""
    usual = task.settings.answer_tokens or request.reading.answer_tokens
    return request.answer_tokens or usual


@dataclass(frozen=True, slots=True)
class _Question:
    """A question of a task, with the words around it; None are those of ``lmi qa``."""

    task: EvalTask
    item: EvalItem
    words: Words | None

    @property
    def text(self) -> str:
        """What is asked as the question."""
        if self.words is None:
            return self.item.asked
        return self.item.question if self.words.asks else ""

    @property
    def chat(self) -> bool:
        """Whether the prompt is put into the chat template."""
        return self.words is None or self.task.settings.chat

    @property
    def answer_text(self) -> type[AnswerText]:
        """What of an answer is kept."""
        if not self.task.form.verbatim:
            return AnswerText
        return FirstLineText if self.task.settings.first_line else VerbatimText

    @property
    def reading(self) -> Hashable:
        """What it shares with questions that can be asked after the same reading."""
        tokens, asks = self.task.settings.answer_tokens, bool(self.text.strip())
        return self.item.subject, self.words, self.chat, tokens, asks, self.answer_text


def evaluate(
    model: Loaded,
    tasks: Sequence[EvalTask],
    request: EvalRequest,
    predictions: Predictions,
    processes: Processes | None = None,
) -> Generator[Progress | Note, None, EvalReport]:
    """Answer all questions that have no answer yet.

    Several ``processes`` share the texts; all have the same report in the end.

    Raises:
        NoInputError: A document cannot be read, or does not have the place of an answer.
        UsageError: A question does not fit the window, or options contradict each other.
    """
    processes = processes or Processes()
    with processes.first():
        kept = {task.name: predictions.of(task) for task in tasks}
    asking = _Asking(model, request, EvalReport(kept, processes=processes.count))
    report, noted = asking.report, dict[str, None]()
    groups: dict[Hashable, list[_Question]] = {}
    total = before = 0
    for task in tasks:
        answered = report.predictions[task.name].answers
        for question in _questions(task, request):
            total += 1
            if question.item.number in answered:
                before += 1
            else:
                groups.setdefault(question.reading, []).append(question)

    def new(event: Progress | Note) -> Note | None:
        """Pass each note on once; progress is counted in questions."""
        if isinstance(event, Progress) or event.text in noted:
            return None
        noted[event.text] = None
        return event

    texts = list(groups.values())
    if processes.count > 1:
        texts.sort(key=_cost, reverse=True)
    for questions in processes.share(texts):
        asking.require_places(questions)
    for _ in processes.waiting():
        pass
    for questions in processes.share(texts):
        steps: Generator[Note, None, Reading] = relay(asking.read(questions), new)
        reading = yield from steps
        for _ in asking.ask(reading, questions):
            yield Progress(before + processes.done(1), total, "questions")
    for _ in processes.waiting():
        yield Progress(before + processes.done(), total, "questions")
    yield from _put_together(report, tasks, noted, processes)
    return report


def _put_together(
    report: EvalReport, tasks: Sequence[EvalTask], noted: Iterable[str], processes: Processes
) -> Iterator[Note]:
    """Add to a report what other processes have done; yield their notes that are new."""
    said, by_name = set(noted), {task.name: task for task in tasks}
    collected = processes.collect(report.share(said))
    if processes.count > 1 and not processes.rank:
        for kept in report.predictions.values():
            kept.read()
    for rank, done in enumerate(collected):
        if rank == processes.rank:
            continue
        report.add(done, by_name, keep=not processes.rank)
        for text in done["notes"]:
            if text not in said:
                said.add(text)
                yield Note(text)
    if not processes.rank:
        for kept in report.predictions.values():
            kept.finish()


def _cost(questions: Sequence[_Question]) -> int:
    """About how much there is to do, so that what takes longest can be begun first."""
    item = questions[0].item
    paths = [Path(path) for path in item.documents]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return len(item.text) + sum(sizes) + _QUESTION_COST * len(questions)


def _questions(task: EvalTask, request: EvalRequest) -> Iterator[_Question]:
    prompt = None
    if request.words is not None and not task.form.complete:
        prompt = request.words.require(task.form.words_name(task.name))
    for item in limited(task, request.limit):
        words = Words("", "", "") if task.form.complete else None
        yield _Question(task, item, words if prompt is None else words_for(prompt, item))


class _Asking:
    """Reads texts and asks the questions about them; all questions of a call share a reading.

    Attributes:
        report: Grows with each answer.
    """

    def __init__(self, model: Loaded, request: EvalRequest, report: EvalReport) -> None:
        self.report = report
        self._model, self._request = model, request
        choice, facts = request.reading.method, model.known.facts
        self._cuts = choice.truncation(facts.trained_length) is not None
        method = method_for(model.known, choice, facts.trained_length, 0)
        self._sees_all = self._cuts or sees_everything(method, facts.layers)

    def require_places(self, questions: Sequence[_Question]) -> None:
        """Refuse documents that do not have the places of the answers, before any is read."""
        item = questions[0].item
        if not self._evidence(questions) or not all(map(_can_be_read_again, item.documents)):
            return
        document = Document()
        with _named(item):
            stream = TokenStream(self._corpus(questions[0]), self._model.tokenizer)
            for block in stream.blocks(document.provenance):
                document.add(block)
        passages = GoldPassages(document)
        for question in questions:
            passages.of(question.item)

    def read(self, questions: Sequence[_Question]) -> Generator[Progress | Note, None, Reading]:
        """Read the text that some questions are about."""
        first, request = questions[0], self._request.reading
        prompts = self._prompts(first)
        wanted = replace(
            request,
            prompts=prompts,
            memory=self._memory(questions),
            answer_tokens=answer_tokens(first.task, self._request),
            evidence=self._evidence(questions),
        )
        with _named(first.item):
            stream = TokenStream(self._corpus(first), self._model.tokenizer)
            reading = yield from read(
                self._model, stream, wanted, [question.text for question in questions]
            )
        self._request.require(reading)
        report = self.report
        report.forms[reading.plan.form] += 1
        report.read_tokens += reading.fresh_tokens
        report.timing.add_prefill(report.read_tokens, reading.prefill_s)
        return reading

    def ask(self, reading: Reading, questions: Sequence[_Question]) -> Iterator[_Question]:
        """Ask questions about what has been read; yield each when its answer is kept."""
        report, evidence = self.report, self._evidence(questions)
        options = replace(
            self._request.answers,
            prompts=self._prompts(questions[0]),
            answer_from=self._memory(questions).answer_from,
            max_new_tokens=answer_tokens(questions[0].task, self._request),
            answer_text=questions[0].answer_text,
            evidence=evidence,
        )
        asker = Asker(self._model, reading, options)
        ranks = _ranks(asker, questions) if evidence else {}
        before = asker.timing.decode_s
        for run in _runs(questions, options.sampling.temperature > 0.0):
            waiting = iter(run)
            texts = [question.text for question in run]
            for event in asker.ask_all(texts, first=run[0].item.number):
                if not isinstance(event, Answer):
                    continue
                question = next(waiting)
                known = id(question.item)
                rank = ranks.get(known)
                report.answered(question.item, event.answer, rank, ranked=known in ranks)
                report.answered_from[event.answered_from] += 1
                report.generated += event.tokens
                yield question
        report.timing.add_decode(report.generated, asker.timing.decode_s - before)

    def _corpus(self, question: _Question) -> Corpus:
        item, words = question.item, question.words
        if item.documents:
            return self._request.open(item.documents)
        return text_corpus(item.text if words is None else words.before + item.text, item.where)

    def _evidence(self, questions: Sequence[_Question]) -> bool:
        """Whether passages are ranked for the sake of the places that answers are from."""
        wanted = any(question.item.gold is not None for question in questions)
        return wanted and not self._cuts and self._request.reading.memory.index

    def _memory(self, questions: Sequence[_Question]) -> MemoryChoice:
        """What is kept of a text: what the answers need, and an index if there is evidence."""
        memory = self._request.reading.memory
        if self._sees_all:
            return replace(memory, answer_from="auto", index=self._evidence(questions), store=False)
        if not questions[0].text.strip() and memory.answer_from == "auto":
            return NO_MEMORY  # there is no question by which passages could be found
        needed = memory.answer_from in ("auto", "passages") or self._evidence(questions)
        return replace(memory, index=memory.index and needed)

    def _prompts(self, question: _Question) -> Prompts:
        request, tokenizer, words = self._request, self._model.tokenizer, question.words
        template = self._model.template if request.chat and question.chat else None
        if words is None:
            return prompts_of(tokenizer, template, request.system)
        said = words.lead, words.trail, words.before
        return TaskPrompts(tokenizer, template, request.system, *said)


@contextlib.contextmanager
def _named(item: EvalItem) -> Iterator[None]:
    """Let errors name the record."""
    try:
        yield
    except LmiError as error:
        raise type(error)(f"{item.where}: {error.message}", hint=error.hint) from error


def _can_be_read_again(path: str) -> bool:
    """Not so a pipe."""
    return Path(path).is_file() or Path(path).is_dir()


def _ranks(asker: Asker, questions: Sequence[_Question]) -> dict[int, int | None]:
    """Filled, while questions are asked, with the rank of the right passage by ``id`` of the item.

    Raises:
        NoInputError: The document does not have the place of an answer.
    """
    passages = GoldPassages(asker.reading.document)
    items = [question.item for question in questions]
    right = {id(item): passages.of(item) for item in items if item.gold is not None}
    ranks: dict[int, int | None] = {}
    waiting = iter([id(question.item) for question in questions])

    def keep(index: int, ranked: Sequence[Ranked]) -> None:
        if (item := next(waiting)) in right:
            ranks[item] = passages.rank(ranked, right[item])

    asker.ranked_for = keep
    return ranks


def _runs(questions: Sequence[_Question], apart: bool) -> Iterator[list[_Question]]:
    """All questions at once; if ``apart``, those of a task whose numbers follow each other.

    Then each has the same random numbers whether or not an interrupted run goes on.
    """
    if not apart:
        yield list(questions)
        return
    pairs = enumerate(questions)
    for _, run in groupby(pairs, lambda pair: (pair[1].task.name, pair[1].item.number - pair[0])):
        yield [question for _, question in run]
