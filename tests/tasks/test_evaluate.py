"""Questions of tasks: one reading for each text, answers as they are asked alone, ranks beside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.evaluation.files import EvalTask, read_tasks
from lmi_cli.evaluation.forms.base import RecordFile
from lmi_cli.evaluation.predictions import Predictions
from lmi_cli.evaluation.words import WordsFile
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import open_corpus
from lmi_cli.tasks import evaluate as module
from lmi_cli.tasks.answer_text import AnswerText, FirstLineText, VerbatimText
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.evaluate import EvalReport, EvalRequest, evaluate
from lmi_cli.tasks.events import Note, Progress, follow
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice, ReadingRequest
from lmi_cli.tasks.reading import read
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

SENTENCE = "The grass is green. The sky is blue."
Run = Callable[..., EvalReport]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"{n}: {SENTENCE}\n" for n in range(80)))
    return path


def tasks_of(folder: Path, *records: dict[str, Any], name: str = "set.jsonl") -> list[EvalTask]:
    data = "\n".join(map(json.dumps, records)).encode()
    return read_tasks([(RecordFile(folder / name), data)])


@pytest.fixture
def run(model: Loaded) -> Run:
    """Evaluate by a method; keywords are those of the request."""

    def evaluated(
        tasks: list[EvalTask],
        method: str = "lm-infinite",
        *,
        memory: MemoryChoice | None = None,
        folder: Path | None = None,
        options: dict[str, Any] | None = None,
        events: list[Any] | None = None,
        **request: Any,
    ) -> EvalReport:
        prompts = prompts_of(model.tokenizer, model.template)
        choice, memory = MethodChoice(method), memory or MemoryChoice()
        reading = ReadingRequest(prompts, choice, memory, 8, 64)
        answers = AnswerOptions(
            prompts, choice, memory.answer_from, 8, rank="fast", **(options or {})
        )
        asked = EvalRequest(reading, answers, open_corpus, **request)
        events = [] if events is None else events
        predictions = Predictions(folder, {"method": method})
        return follow(evaluate(model, tasks, asked, predictions), events.append)

    return evaluated


def questions(book: Path, count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"document": str(book), "question": f"What is number {n}?", "answers": ["x"], **more}
        for n in range(count)
    ]


def test_a_document_is_read_once_for_all_tasks_and_answered_as_by_qa(
    run: Run, model: Loaded, book: Path
) -> None:
    one, other = questions(book, 3), questions(book, 2, task="other")
    tasks = tasks_of(book.parent, *one, *other)
    report = run(tasks)
    assert report.forms == {"stream": 1} and report.asked == 5
    assert report.answered_from == {"passages": 5}
    prompts = prompts_of(model.tokenizer, model.template)
    request = ReadingRequest(prompts, MethodChoice(), MemoryChoice(), 8, 64)
    asked = [record["question"] for record in one]
    stream = TokenStream(open_corpus([str(book)]), model.tokenizer)
    reading = follow(read(model, stream, request, asked))
    asker = Asker(model, reading, AnswerOptions(prompts, max_new_tokens=8, rank="fast"))
    assert report.read_tokens == reading.fresh_tokens
    alone = [answer.answer for answer in follow(asker.ask_all(asked))]
    assert [report.predictions["set"].answers[n] for n in range(3)] == alone


def test_what_has_been_answered_is_not_asked_again(run: Run, book: Path, tmp_path: Path) -> None:
    tasks, folder = tasks_of(book.parent, *questions(book, 4)), tmp_path / "p"
    whole = run(tasks)
    first = run(tasks, folder=folder, limit=2)
    assert first.asked == 2 and first.predictions["set"].answers.keys() == {0, 1}
    events: list[Any] = []
    second = run(tasks, folder=folder, events=events)
    assert second.asked == 2
    assert [event.done for event in events if isinstance(event, Progress)] == [3, 4]
    assert second.predictions["set"].answers == whole.predictions["set"].answers
    assert run(tasks, folder=folder).read_tokens == 0


def test_sampled_answers_are_the_same_after_an_interruption(
    run: Run, book: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(book.read_bytes())
    one, other = questions(book, 4), questions(copy, 4)
    mixed = [one[0], other[1], one[2], one[3]]  # the numbers about one text are 0, 2 and 3
    tasks, options = tasks_of(book.parent, *mixed), {"sampling": Sampling(1.5, seed=3)}
    whole = run(tasks, options=options).predictions["set"].answers
    run(tasks, options=options, folder=tmp_path / "p", limit=3)
    again = run(tasks, options=options, folder=tmp_path / "p").predictions["set"].answers
    assert again == whole and len(set(whole.values())) > 1


@pytest.mark.parametrize(
    ("method", "forms", "basis"),
    [("truncate", "truncated", "window"), ("full", "stream", "whole")],
)
def test_methods_without_a_memory(
    run: Run, book: Path, method: str, forms: str, basis: str
) -> None:
    tasks = tasks_of(book.parent, *questions(book, 2, lines=3))
    report = run(tasks, method)
    assert report.forms == {forms: 1} and report.answered_from == {basis: 2}
    # What is cut cannot be ranked; a method that sees all of it shows where it looked.
    assert bool(report.predictions["set"].ranks) is (method == "full")


def test_ranks_of_the_right_passages(run: Run, book: Path) -> None:
    records = questions(book, 3, passage="40: The grass")
    records[1] = questions(book, 1)[0]
    tasks = tasks_of(book.parent, *records)
    ranks = run(tasks).predictions["set"].ranks
    assert ranks.keys() == {0, 2} and all(rank for rank in ranks.values())
    assert run(tasks, memory=NO_MEMORY).predictions["set"].ranks == {}


def test_a_place_that_the_document_does_not_have_is_refused(
    run: Run, book: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(book.read_bytes())
    tasks = tasks_of(book.parent, *questions(copy, 1), *questions(book, 1, page=2))
    events: list[Any] = []
    with pytest.raises(NoInputError, match=r"set\.jsonl line 2: its document does not have"):
        run(tasks, events=events)
    assert events == []  # although the first document could be read
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_bytes(book.read_bytes())
    with pytest.raises(NoInputError, match=r"line 1: 'page' and 'lines' say nothing about the 2"):
        run(tasks_of(tmp_path, *questions(folder, 1, lines=3)))


def test_errors_name_the_record(run: Run, book: Path) -> None:
    (record,) = questions(book, 1)
    with pytest.raises(UsageError, match=r"set\.jsonl line 1: a question of .* does not fit"):
        run(tasks_of(book.parent, {**record, "question": "word " * 300}))
    book.write_bytes(b"")
    with pytest.raises(NoInputError, match=r"set\.jsonl line 1: no text in"):
        run(tasks_of(book.parent, record))


LONGBENCH = {
    "input": "What is blue?", "context": f"{SENTENCE} " * 60, "answers": ["x"],
    "all_classes": None, "length": 1, "dataset": "hotpotqa",
}  # fmt: skip


def words(folder: Path, **prompts: str) -> WordsFile:
    path = folder / "prompts.json"
    path.write_text(json.dumps(prompts))
    return WordsFile(path)


@pytest.mark.parametrize("fits", [True, False])
def test_the_words_of_a_task_are_what_the_model_reads(
    run: Run, model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    seen: list[Any] = []

    class Watched(Asker):
        def ask_all(self, questions: Any, first: int = 0) -> Any:
            tail = self._prompt.tail(questions[0])
            seen.append(
                (self.reading, [*self.reading.plan.prefix, *self.reading.document.ids, *tail])
            )
            return super().ask_all(questions, first)

    monkeypatch.setattr(module, "Asker", Watched)
    record = {**LONGBENCH, "context": SENTENCE} if fits else LONGBENCH
    prompt = "Read: {context}\nNow: {input}\nSay:"
    given = words(tmp_path, hotpotqa=prompt)
    report = run(tasks_of(tmp_path, record), words=given, memory=NO_MEMORY)
    assert report.asked == 1
    ((reading, ids),) = seen
    assert reading.plan.fits is fits
    asked = prompt.format(context=record["context"], input="What is blue?")
    assert model.tokenizer.decode(ids, template=True) == (
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_few_shot_tasks_are_asked_without_the_chat_template(
    run: Run, model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes: list[Any] = []

    class Watched(Asker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            prefixes.append(self._prompt.closing)

    monkeypatch.setattr(module, "Asker", Watched)
    tasks = tasks_of(tmp_path, LONGBENCH, {**LONGBENCH, "dataset": "triviaqa"})
    given = words(tmp_path, hotpotqa="{context}\n{input}", triviaqa="{context}\n{input}")
    run(tasks, words=given)
    run(tasks[:1], words=given, chat=False)
    assert [bool(closing) for closing in prefixes] == [True, False, False]


def test_without_a_question_no_passages_are_looked_for(run: Run, tmp_path: Path) -> None:
    record = {**LONGBENCH, "dataset": "gov_report", "input": ""}
    tasks = tasks_of(tmp_path, record)
    given = words(tmp_path, gov_report="{context}\nSum up:")
    assert run(tasks, words=given).answered_from == {"window": 1}
    memory = MemoryChoice("memory", store=True)
    assert run(tasks, words=given, memory=memory).answered_from == {"memory": 1}
    both = words(tmp_path, gov_report="{context}\n{input}")
    for records in ([record, {**record, "input": "?"}], [{**record, "input": "?"}, record]):
        report = run(tasks_of(tmp_path, *records), words=both)
        assert report.answered_from == {"window": 1, "passages": 1}


@pytest.mark.parametrize("answer_from", ["window", "memory", "passages"])
def test_no_index_is_kept_that_nothing_asks_for(
    run: Run, book: Path, monkeypatch: pytest.MonkeyPatch, answer_from: str
) -> None:
    kept: list[tuple[str, ...]] = []

    class Watched(Asker):
        def __init__(self, model: Loaded, reading: Any, options: AnswerOptions) -> None:
            super().__init__(model, reading, options)
            kept.append(reading.plan.kept)

    monkeypatch.setattr(module, "Asker", Watched)
    memory = MemoryChoice(answer_from, store=answer_from == "memory")
    store = ("store",) if answer_from == "memory" else ()
    index = ("index",) if answer_from == "passages" else ()
    for records, expected in (
        (questions(book, 1), index + store),
        (questions(book, 1, lines=3), ("index", *store)),
    ):
        report = run(tasks_of(book.parent, *records), memory=memory)
        assert report.answered_from == {answer_from: 1}
        assert kept.pop() == expected


def test_answers_have_the_length_of_their_data_set(run: Run, tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, {**LONGBENCH, "context": SENTENCE}, LONGBENCH)
    options = {"sampling": Sampling(2.0, seed=1)}  # which hardly ever ends by itself
    given = words(tmp_path, hotpotqa="{context}\n{input}")
    assert run(tasks, words=given, options=options).generated == 2 * 32
    assert run(tasks, words=given, options=options, answer_tokens=5).generated == 2 * 5


def test_notes_are_passed_on_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.read

    def noted(*arguments: Any) -> Any:
        yield Note("a warning")
        return (yield from original(*arguments))

    monkeypatch.setattr(module, "read", noted)
    events: list[Any] = []
    tasks = tasks_of(tmp_path, {**LONGBENCH, "context": SENTENCE}, LONGBENCH)
    run(tasks, words=words(tmp_path, hotpotqa="{context}\n{input}"), events=events)
    assert events.count(Note("a warning")) == 1


def test_an_answer_is_kept_word_for_word_where_a_script_expects_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[type[AnswerText]] = []

    class Watched(Asker):
        def __init__(self, model: Loaded, reading: Any, options: AnswerOptions) -> None:
            super().__init__(model, reading, options)
            seen.append(options.answer_text)

    monkeypatch.setattr(module, "Asker", Watched)
    (tmp_path / "a.txt").write_text(SENTENCE)
    given = words(tmp_path, hotpotqa="{context}\n{input}", triviaqa="{context}\n{input}")
    run(tasks_of(tmp_path, LONGBENCH, {**LONGBENCH, "dataset": "triviaqa"}), words=given)
    run(tasks_of(tmp_path, {"document": "a.txt", "question": "?", "answers": ["x"]}))
    assert seen == [VerbatimText, FirstLineText, AnswerText]
