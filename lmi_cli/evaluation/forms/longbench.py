"""LongBench version 1 (Bai et al., ACL 2024, arXiv 2308.14508), and LongBench-E.

Lengths of answers and metrics are those of ``config/dataset2maxlen.json`` and ``eval.py`` in its
repository. The words of its prompts are in ``config/dataset2prompt.json`` there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_cli.evaluation.forms.base import RecordFile, RecordForm, unknown_task
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.row import Row


def _task(
    metric: str, answer_tokens: int, *, chat: bool = True, first_line: bool = False
) -> TaskSettings:
    return TaskSettings((metric,), answer_tokens, chat, first_line)


TASKS: dict[str, TaskSettings] = {
    "narrativeqa": _task("qa_f1", 128),
    "qasper": _task("qa_f1", 128),
    "multifieldqa_en": _task("qa_f1", 64),
    "multifieldqa_zh": _task("qa_f1_zh", 64),
    "hotpotqa": _task("qa_f1", 32),
    "2wikimqa": _task("qa_f1", 32),
    "musique": _task("qa_f1", 32),
    "dureader": _task("rouge_zh", 128),
    "gov_report": _task("rouge", 512),
    "qmsum": _task("rouge", 512),
    "multi_news": _task("rouge", 512),
    "vcsum": _task("rouge_zh", 512),
    "trec": _task("classification", 64, chat=False, first_line=True),
    "triviaqa": _task("qa_f1", 32, chat=False, first_line=True),
    "samsum": _task("rouge", 128, chat=False, first_line=True),
    "lsht": _task("classification", 64, chat=False, first_line=True),
    "passage_count": _task("count", 32),
    "passage_retrieval_en": _task("retrieval", 32),
    "passage_retrieval_zh": _task("retrieval_zh", 32),
    "lcc": _task("code_sim", 64, chat=False),
    "repobench-p": _task("code_sim", 64, chat=False),
}

_EVEN = "_e"
"""Ends the names of LongBench-E's files, whose scores are given by length too."""


class LongBench(RecordForm):
    """Records with ``input``, ``context``, ``answers``, ``length``, ``dataset``."""

    name = "LongBench"
    fields = ("input", "context", "answers", "dataset")
    published = "config/dataset2prompt.json in the repository of LongBench"

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """One question."""
        task = (file.task or row.filled("dataset")).removesuffix(_EVEN)
        if task not in TASKS:
            raise unknown_task(row.where, task, TASKS, self.name)
        classes, group = row.values.get("all_classes"), ""
        settings, length = TASKS[task], row.values.get("length")
        if file.stem.endswith(_EVEN):
            task, group = task + _EVEN, _bucket(row.integer("length", least=0))
        named = row.texts("all_classes") if "classification" in settings.metrics else ()
        answers = row.texts("answers")
        kept = {"answers": list(answers), "all_classes": classes, "length": length}
        if "_id" in row.values:
            kept["_id"] = row.values["_id"]
        yield EvalItem(
            task=task,
            group=group,
            number=0,
            where=row.where,
            question=row.text("input"),
            answers=answers,
            classes=named,
            text=row.filled("context"),
            row=kept,
        )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """That of the published table."""
        return TASKS[self.words_name(items[0].task)]

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """A line of ``pred/MODEL/DATASET.jsonl``."""
        return {"pred": answer, **item.row}

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``pred``."""
        return prediction["pred"]

    def words_name(self, task: str) -> str:
        """That of LongBench for LongBench-E."""
        return task.removesuffix(_EVEN)

    def file_name(self, task: str) -> str:
        """The files of LongBench-E are called as those of LongBench, in a folder of their own."""
        even = task.endswith(_EVEN)
        return f"longbench_e/{task.removesuffix(_EVEN)}.jsonl" if even else f"{task}.jsonl"


def _bucket(length: int) -> str:
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"
