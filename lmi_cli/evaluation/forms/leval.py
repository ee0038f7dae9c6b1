"""L-Eval (An et al., ACL 2024, arXiv 2307.11088): one document, many instructions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_cli.evaluation.forms.base import RecordFile, RecordForm
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row

_ANSWER_TOKENS = 512
_METRICS: dict[str, tuple[str, ...]] = {
    "exam": ("letter",),
    "f1": ("qa_f1",),
    "rouge": ("rouge_1", "rouge_2", "rouge_l"),
}
_LETTERS = re.compile(r"[A-D]+|\(?[A-D]+[.:)](\s.*)?", re.DOTALL)
_SEVERAL = "coursera"
"""In the names of the files whose questions may have several right options."""
_GAP = ": "


class LEval(RecordForm):
    """Records with ``instructions``, ``outputs``, ``input``, ``source``, ``evaluation``.

    ``evaluation`` is part of the name of the task. Answers that are to be judged by a person or a
    model are only predicted; so are those of exams that are not answered by letters.
    """

    name = "L-Eval"
    fields = ("instructions", "outputs", "input", "evaluation")

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """A question for each instruction."""
        text, way = row.filled("input"), row.filled("evaluation")
        asked, answers = row.texts("instructions"), row.texts("outputs")
        if len(asked) != len(answers):
            raise row.fault(f"{len(asked)} 'instructions', but {len(answers)} 'outputs'")
        if way == "exam" and not all(_LETTERS.fullmatch(answer.strip()) for answer in answers):
            way = "exam without letters"
        for question, answer in zip(asked, answers, strict=True):
            yield EvalItem(
                task=f"{file.stem}{_GAP}{way}",
                number=0,
                where=row.where,
                question=question,
                answers=(answer,),
                text=text,
                row={"query": question, "gt": answer, "evaluation": row.values["evaluation"]},
            )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """That of its way of evaluation."""
        name, _, way = items[0].task.rpartition(_GAP)
        metrics = _METRICS.get(way, ())
        if way == "exam" and _SEVERAL in name:
            metrics = ("letters",)
        return TaskSettings(metrics, _ANSWER_TOKENS)

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """A line of a file of predictions, in which the model is called ``lmi``."""
        return {**item.row, "lmi_pred": answer}

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``lmi_pred``."""
        return prediction["lmi_pred"]

    def words_name(self, task: str) -> str:
        """Without the way of evaluation."""
        return task.rpartition(_GAP)[0]

    def file_name(self, task: str) -> str:
        """The way of evaluation behind a dot."""
        name, _, way = task.rpartition(_GAP)
        return f"{name}.{way.replace(' ', '-')}.pred.jsonl"
