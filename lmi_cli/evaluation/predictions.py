"""Files of predictions, in the form of their data sets, by which an interrupted run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmi_cli.disk import write_atomically
from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.evaluation.files import EvalTask
from lmi_cli.evaluation.item import EvalItem

_RUN = "run.json"
_NUMBER, _RANK = "lmi_record", "lmi_rank"


class Predictions:
    """What has been answered by one method, in memory and, if there is a folder, in files.

    A line of a file has two fields beside those of the data set, which its script ignores: the
    number of the question, and, if the place of the answer is known, the rank of the right passage.

    Args:
        folder: Where the files are; None keeps nothing for later.
        run: What the answers depend on: model, method, options. Answers of another run in the
            folder are refused.

    Raises:
        UsageError: There are answers of another run in the folder, or something else.
        ResourceError: The folder cannot be written.
    """

    def __init__(self, folder: Path | None, run: Mapping[str, Any]) -> None:
        self._folder = folder
        self._run: dict[str, Any] = json.loads(json.dumps(dict(run)))
        self._tasks: dict[str, str] = {}
        if folder is None:
            return
        path = folder / _RUN
        if path.exists():
            self._tasks = _tasks_of(path, self._run)
        elif folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} has files, but no {_RUN}", hint="name another folder")

    def of(self, task: EvalTask) -> "TaskPredictions":
        """Those of a task; answers to other records under its name are refused.

        Raises:
            UsageError: The records are not those that were answered before, or the file is damaged.
            ResourceError: The folder cannot be written.
        """
        if self._folder is None:
            return TaskPredictions(task, None)
        path = self._folder / task.form.file_name(task.name)
        if self._tasks.get(task.name, task.sha256) != task.sha256:
            raise UsageError(
                f"{path} has answers to other records of {task.name}",
                hint="name another folder, or remove the file and its entry in " + _RUN,
            )
        self._tasks[task.name] = task.sha256
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {**self._run, "tasks": self._tasks}
            write_atomically(self._folder / _RUN, (json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise _unwritable(path, error) from None
        return TaskPredictions(task, path)


class TaskPredictions:
    """Answers to the questions of one task, by number.

    Args:
        task: The task.
        path: The file; None keeps nothing for later.

    Attributes:
        answers: Answers by number of the question.
        ranks: Rank of the right passage by number of the question, from one; None for none.

    Raises:
        UsageError: A line of the file, other than the last, is damaged.
        ResourceError: The file cannot be read or written.
    """

    def __init__(self, task: EvalTask, path: Path | None) -> None:
        self._task, self._path = task, path
        self.answers: dict[int, str] = {}
        self.ranks: dict[int, int | None] = {}
        if path is None or not path.exists():
            return
        try:
            lines = path.read_bytes().split(b"\n")
            whole = [line for line in lines[:-1] if line.strip()]  # the last one may be torn
            for number, line in enumerate(whole, 1):
                self._take(f"{path} line {number:,}", line)
            if lines[-1]:
                write_atomically(path, b"".join(line + b"\n" for line in whole))
        except OSError as error:
            raise _unwritable(path, error) from None

    def add(self, item: EvalItem, answer: str, rank: int | None, *, ranked: bool) -> None:
        """Keep an answer; ``ranked`` says whether passages were ranked for it.

        Raises:
            ResourceError: The file cannot be written.
        """
        self.answers[item.number] = answer
        prediction = {**self._task.form.prediction(item, answer), _NUMBER: item.number}
        if ranked:
            self.ranks[item.number] = prediction[_RANK] = rank
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write((json.dumps(prediction, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def finish(self) -> None:
        """Put the lines of the file in the order of the records.

        Raises:
            ResourceError: The file cannot be written.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
            ordered = sorted(lines, key=lambda line: int(json.loads(line)[_NUMBER]))
            if ordered != lines:
                write_atomically(self._path, b"".join(ordered))
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def _take(self, where: str, line: bytes) -> None:
        try:
            prediction = json.loads(line)
            number, answer = prediction[_NUMBER], self._task.form.answer_in(prediction)
            rank = prediction.get(_RANK)
            if not (rank is None or (type(rank) is int and rank >= 1)):
                raise ValueError("not a rank")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UsageError(
                f"{where} is not a prediction of lmi",
                hint="remove the line, or name another folder",
            ) from None
        if not (type(number) is int and 0 <= number < len(self._task.items)):
            raise UsageError(f"{where}: there is no record number {number}")
        self.answers[number] = answer
        if _RANK in prediction:
            self.ranks[number] = rank


def _tasks_of(path: Path, run: Mapping[str, Any]) -> dict[str, str]:
    """The tasks that have been begun, with the hashes of their records.

    Raises:
        UsageError: They belong to another run.
    """
    try:
        stored = json.loads(path.read_bytes())
        tasks = dict(stored.pop("tasks"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path} cannot be read", hint="name another folder") from None
    for name in {**stored, **run}:
        if stored.get(name) != run.get(name):
            raise UsageError(
                f"{path.parent} has answers of another run: {_difference(name, stored, run)}",
                hint="name another folder, or remove that one",
            )
    return tasks


def _difference(name: str, stored: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    was, now = stored.get(name), run.get(name)
    if isinstance(was, dict) and isinstance(now, dict):
        inner = next(key for key in {**was, **now} if was.get(key) != now.get(key))
        return _difference(inner, was, now) if name else ""
    return f"{name} was {was}, not {now}"


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"{path} cannot be written: {error.strerror or error}")
