"""RULER (Hsieh et al. 2024, arXiv 2404.06654): files made by its scripts.

Lengths of answers and metrics are those of ``scripts/data/synthetic/constants.py`` and
``scripts/eval/synthetic/constants.py`` in its repository. A record has its words in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_cli.evaluation.forms.base import RecordFile, RecordForm, unknown_task
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row

_FAMILIES: dict[str, TaskSettings] = {
    "niah": TaskSettings(("string_match_all",), 128, chat=False),
    "vt": TaskSettings(("string_match_all",), 30, chat=False),
    "cwe": TaskSettings(("string_match_all",), 120, chat=False),
    "fwe": TaskSettings(("string_match_all",), 50, chat=False),
    "qa": TaskSettings(("string_match_part",), 32, chat=False),
}
_SPLITS = ("validation", "test", "train")


class Ruler(RecordForm):
    """Records with ``index``, ``input``, ``outputs``, and perhaps an ``answer_prefix``.

    The last line of ``input`` is the question; an ``answer_prefix`` follows it.
    """

    name = "RULER"
    fields = ("index", "input", "outputs")
    complete = True

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """One question."""
        task = file.stem
        if task in _SPLITS and file.path is not None:  # as in niah_single_1/validation.jsonl
            task = file.path.absolute().parent.name
        if task.partition("_")[0] not in _FAMILIES:
            raise unknown_task(row.where, task, _FAMILIES, self.name)
        text, feed, question = row.filled("input").rpartition("\n")
        answers = row.scalars("outputs")
        if not all(answer.strip() for answer in answers):
            raise row.fault("one of the 'outputs' is empty")
        if not text.strip() or not question.strip():
            raise row.fault("'input' has no question on a last line of its own")
        yield EvalItem(
            task=task,
            number=0,
            where=row.where,
            question=question + row.text("answer_prefix", ""),
            answers=answers,
            text=text + feed,
            row=dict(row.values),
        )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """That of its family."""
        return _FAMILIES[items[0].task.partition("_")[0]]

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """The record with ``pred``, and with ``others``, which its script looks into."""
        return {"others": {}, **item.row, "pred": answer}

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``pred``."""
        return prediction["pred"]
