"""Qasper (Dasigi et al., NAACL 2021, arXiv 2105.03011), as LM-Infinite's paper ran it.

The text is that of all sections, each behind its name, without title and abstract; answers have at
most 30 tokens, of which the first line counts (Han et al., NAACL 2024, arXiv 2308.16137, table 2).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_cli.evaluation.forms.base import RecordFile, RecordForm
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row

_TASK = "qasper"
_SETTINGS = TaskSettings(("qa_f1",), 30, first_line=True)


class Qasper(RecordForm):
    """Papers with ``full_text`` and ``qas``, as released or in columns, as on the Hub."""

    name = "Qasper"
    fields = ("full_text", "qas")

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """A question for each of ``qas`` that has an answer."""
        text = "".join(f"{name} {paragraphs} " for name, paragraphs in _sections(row))
        if not text.strip():
            raise row.fault("'full_text' is empty")
        for question in _records(row, "qas"):
            answers = tuple(map(_answer, _records(question, "answers")))
            if not answers:
                raise row.fault("a question has no 'answers'")
            yield EvalItem(
                task=file.task or _TASK,
                number=0,
                where=row.where,
                question=question.filled("question"),
                answers=answers,
                text=text,
                row={"question_id": question.text("question_id")},
            )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """That of the paper."""
        return _SETTINGS

    def words_name(self, task: str) -> str:
        """That of the data set, whatever the task is called."""
        return _TASK

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """A line that the evaluator of Qasper reads, which scores all of an answer."""
        first = answer.lstrip("\n").partition("\n")[0]
        return {**item.row, "predicted_answer": first, "predicted_evidence": []}

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``predicted_answer``."""
        return prediction["predicted_answer"]


def _records(row: Row, name: str) -> list[Row]:
    """A list of objects, which may be an object of lists."""
    value = row.values.get(name)
    if not isinstance(value, dict):
        return row.objects(name)
    lengths = {len(column) for column in value.values() if isinstance(column, list)}
    if len(lengths) != 1 or not all(isinstance(column, list) for column in value.values()):
        raise row.fault(f"the columns of {name!r} differ in length")
    rows = zip(*value.values(), strict=True)
    return [Row(dict(zip(value, cells, strict=True)), row.where) for cells in rows]


def _sections(row: Row) -> Iterator[tuple[str, str]]:
    for section in _records(row, "full_text"):
        name = section.values.get("section_name")
        yield (
            section.text("section_name") if name is not None else "",
            " ".join(section.texts("paragraphs", least=0)),
        )


def _answer(row: Row) -> str:
    """One annotator's answer: yes or no, unanswerable, in free words, or the words of the text."""
    if row.has("answer"):
        row = row.inner("answer")
    if (yes := row.flag("yes_no")) is not None:
        return "Yes" if yes else "No"
    if row.flag("unanswerable"):
        return "Unanswerable"
    if free := row.text("free_form_answer", ""):
        return free
    return ", ".join(row.texts("extractive_spans"))
