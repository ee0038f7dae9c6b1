"""Question sets of one's own: about documents, with answers and the places that they are from."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmi_cli.errors import NoInputError
from lmi_cli.evaluation.forms.base import RecordFile, RecordForm
from lmi_cli.evaluation.item import EvalItem, GoldPlace, TaskSettings
from lmi_cli.evaluation.metrics.tokens import normalised, words_of
from lmi_cli.evaluation.row import Row

_BY_ANSWERS = TaskSettings(("contains", "qa_f1", "exact_match"))
_BY_PATTERN = TaskSettings(("match",))
_UNSCORED = TaskSettings(())
_PLACES = ("page", "lines", "passage", "passage_pattern")


class OwnQuestions(RecordForm):
    """Records with ``document`` and ``question``; see ``docs/evaluation.md``."""

    name = "own questions"
    fields = ("document", "question")
    verbatim = False

    def items(self, row: Row, file: RecordFile) -> Iterator[EvalItem]:
        """One question."""
        if row.has("answers", "pattern"):
            raise row.fault("it has both 'answers' and a 'pattern'; give one of them")
        folder = Path() if file.path is None else file.path.parent
        names = row.texts("document")
        if not all(name.strip() for name in names):
            raise row.fault("'document' is empty")
        documents = tuple(str(folder / name) for name in names)
        for document in documents:
            if not os.path.lexists(document):
                raise row.fault(f"there is no document {document}")
        answers = row.texts("answers") if row.has("answers") else ()
        for answer in answers:
            if not words_of(answer) or not normalised(answer):
                raise row.fault(f"the right answer {answer[:40]!r} has no word to look for")
        gold = _gold(row)
        if len(documents) > 1 and gold is not None and gold.passage is None:
            raise row.fault("'page' and 'lines' say nothing about several documents")
        known = {name: row.values[name] for name in ("id", "question") if name in row.values}
        yield EvalItem(
            task=file.task or row.text("task", file.stem),
            number=0,
            where=row.where,
            question=row.filled("question"),
            answers=answers,
            pattern=row.pattern("pattern", re.IGNORECASE) if row.has("pattern") else None,
            documents=documents,
            gold=gold,
            row={**known, "document": row.values["document"]},
        )

    def settings(self, items: Sequence[EvalItem]) -> TaskSettings:
        """By answers or by patterns, whatever its records have."""
        ways = [_way(item) for item in items]
        for item, way in zip(items, ways, strict=True):
            if way is not ways[0]:
                raise NoInputError(
                    f"{item.where}: the task {item.task!r} is scored in one way: by 'answers', "
                    "by 'pattern', or not at all",
                    hint="a 'task' of its own lets a record be scored in another way",
                )
        return ways[0]

    def prediction(self, item: EvalItem, answer: str) -> dict[str, Any]:
        """The question with its ``answer``."""
        return {**item.row, "answer": answer}

    def answer_in(self, prediction: Mapping[str, Any]) -> Any:
        """Its ``answer``."""
        return prediction["answer"]


def _way(item: EvalItem) -> TaskSettings:
    if item.answers:
        return _BY_ANSWERS
    return _UNSCORED if item.pattern is None else _BY_PATTERN


def _gold(row: Row) -> GoldPlace | None:
    given = [name for name in _PLACES if row.has(name)]
    if len(given) > 1:
        raise row.fault(f"the place of the answer is given twice: {' and '.join(given)}")
    if not given:
        if not row.has("answers") and not row.has("pattern"):
            raise row.fault(
                "there is nothing to score: neither 'answers' nor a 'pattern' nor the place of the "
                "answer"
            )
        return None
    (name,) = given
    if name == "page":
        return GoldPlace(page=row.integer("page"))
    if name == "lines":
        lines = row.values["lines"]
        ends = lines if isinstance(lines, list) else [lines, lines]
        if len(ends) != 2 or not all(type(end) is int and end >= 1 for end in ends):
            raise row.fault("'lines' is neither a line nor a list of the first and the last one")
        if ends[0] > ends[1]:
            raise row.fault("'lines' ends before it begins")
        return GoldPlace(lines=(ends[0], ends[1]))
    if name == "passage":
        return GoldPlace(passage=re.compile(re.escape(" ".join(row.filled("passage").split()))))
    return GoldPlace(passage=row.pattern("passage_pattern"))
