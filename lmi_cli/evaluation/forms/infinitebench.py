"""InfiniteBench (Zhang et al., ACL 2024, arXiv 2402.13718).

Lengths of answers and metrics are those of ``src/eval_utils.py`` and ``src/compute_scores.py`` in
its repository.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_cli.evaluation.forms.base import RecordFile, RecordForm, unknown_task
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row

TASKS: dict[str, TaskSettings] = {
    "passkey": TaskSettings(("first_integer",), 6),
    "number_string": TaskSettings(("first_integer",), 12),
    "kv_retrieval": TaskSettings(("word",), 50),
    "longbook_sum_eng": TaskSettings(("rouge_l_sum",), 1200),
    "longbook_choice_eng": TaskSettings(("choice",), 40),
    "longbook_qa_eng": TaskSettings(("qa_f1",), 40),
    "longbook_qa_chn": TaskSettings(("char_f1_zh",), 40),
    "longdialogue_qa_eng": TaskSettings(("word_upper",), 40),
    "math_find": TaskSettings(("first_number",), 3),
    "math_calc": TaskSettings(("calculation",), 30_000),
    "code_run": TaskSettings(("last_integer",), 5),
    "code_debug": TaskSettings(("choice_or_name",), 5),
}
_LETTERS = "ABCD"


class InfiniteBench(RecordForm):
    """Records with ``id``, ``context``, ``input``, ``answer``, ``options``."""

    name = "InfiniteBench"
    fields = ("context", "input", "answer")

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """One question."""
        task = file.stem
        if task not in TASKS:
            raise unknown_task(row.where, task, TASKS, self.name)
        truth = row.values["answer"]
        if isinstance(truth, list) and len(truth) == 1 and isinstance(truth[0], list):
            row = Row({**row.values, "answer": truth[0]}, row.where)  # as in math_calc
        answers = row.scalars("answer")
        options = row.texts("options", least=0) if row.values.get("options") else ()
        lettered = dict(zip(_LETTERS, options, strict=False))
        if TASKS[task].metrics[0] in ("choice", "choice_or_name"):
            if answers[0] not in options[: len(_LETTERS)]:
                raise row.fault("'answer' is not one of the first four 'options'")
            truth = [answers[0], _LETTERS[options.index(answers[0])]]
            answers = tuple(truth)
        yield EvalItem(
            task=task,
            number=0,
            where=row.where,
            question=row.text("input"),
            options="\n".join(f"{letter}. {option}" for letter, option in lettered.items()),
            answers=answers,
            text=row.filled("context"),
            fields={f"OPTION_{letter}": option for letter, option in lettered.items()},
            row={"id": row.values.get("id"), "ground_truth": truth},
        )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """That of the published table."""
        return TASKS[items[0].task]

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """A line of ``preds_TASK.jsonl``."""
        return {
            "id": item.row["id"], "prediction": answer, "ground_truth": item.row["ground_truth"]
        }  # fmt: skip

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``prediction``."""
        return prediction["prediction"]

    def file_name(self, task: str) -> str:
        """As its script expects."""
        return f"preds_{task}.jsonl"
