"""Files of predictions, in the form of their data sets, by which an interrupted run goes on."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lmi_cli.disk import appending, write_atomically
from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.evaluation.documents import DocumentHashes
from lmi_cli.evaluation.files import EvalTask
from lmi_cli.evaluation.item import EvalItem
from lmi_cli.evaluation.row import clean

_RUN = "run.json"
_NUMBER, _RANK = "lmi_record", "lmi_rank"


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Keep other processes from writing predictions into a folder; None needs no lock.

    Where the file system has no locks, nothing is kept from anything.

    Raises:
        UsageError: Another process writes there.
        ResourceError: The folder around it cannot be written.
    """
    if folder is None:
        yield
        return
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"another lmi process writes predictions to {folder}",
            hint="wait for its end, or name another folder",
        ) from None
    except NotImplementedError:
        pass
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        yield
    finally:
        lock.release()


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
        self._documents = DocumentHashes()
        if folder is None:
            return
        path = folder / _RUN
        try:
            begun, filled = path.exists(), folder.is_dir() and any(folder.iterdir())
        except OSError as error:
            raise ResourceError(
                f"{folder} cannot be read: {error.strerror or error}", hint="name another folder"
            ) from None
        if begun:
            self._tasks = _tasks_of(path, self._run)
        elif filled:
            raise UsageError(f"{folder} has files, but no {_RUN}", hint="name another folder")

    def of(self, task: EvalTask) -> "TaskPredictions":
        """Those of a task; answers to other records or about other documents are refused.

        Raises:
            UsageError: Records or documents are not those of the answers, or the file is damaged.
            NoInputError: A document cannot be read.
            ResourceError: The folder cannot be written.
        """
        if self._folder is None:
            return TaskPredictions(task, None)
        path = self._folder / task.form.file_name(task.name)
        digest = self._documents.of(task)
        try:
            if path.exists() and self._tasks.get(task.name) != digest:
                raise UsageError(
                    f"{path} has answers to other records of {task.name}, or about other documents",
                    hint="name another folder, or remove the file",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._tasks.get(task.name) != digest:
                self._tasks[task.name] = digest
                record = json.dumps({**self._run, "tasks": self._tasks}, indent=1)
                write_atomically(self._folder / _RUN, (record + "\n").encode())
        except OSError as error:
            raise _unwritable(path, error) from None
        return TaskPredictions(task, path)


class TaskPredictions:
    """Answers to the questions of one task, by number. Several processes may add to a file.

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
        self.read()

    def read(self) -> None:
        """Read what is in the file now, answers of other processes included.

        Raises:
            UsageError: A line of the file, other than the last, is damaged.
            ResourceError: The file cannot be read or written.
        """
        path = self._path
        if path is None:
            return
        try:
            lines = path.read_bytes().split(b"\n")
            whole = [line for line in lines[:-1] if line.strip()]  # the last one may be torn
            for number, line in enumerate(whole, 1):
                self._take(f"{path} line {number:,}", line)
            if lines[-1]:
                write_atomically(path, b"".join(line + b"\n" for line in whole))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unwritable(path, error) from None

    def add(
        self,
        item: EvalItem,
        answer: str,
        rank: int | None,
        *,
        ranked: bool,
        write: bool = True,
    ) -> None:
        """Keep an answer; ``ranked`` says whether passages were ranked for it.

        Without ``write``, it is kept in memory only.

        Raises:
            ResourceError: The file cannot be written.
        """
        self.answers[item.number] = answer
        prediction = {**self._task.form.prediction(item, answer), _NUMBER: item.number}
        if ranked:
            self.ranks[item.number] = prediction[_RANK] = rank
        if self._path is None or not write:
            return
        try:
            with appending(self._path) as file:
                _remove_torn_line(file)
                file.write((clean(json.dumps(prediction, ensure_ascii=False)) + "\n").encode())
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def finish(self) -> None:
        """Put the lines of the file in the order of the records, the last one of each.

        Raises:
            ResourceError: The file cannot be written.
        """
        if self._path is None:
            return
        try:
            data = self._path.read_bytes()
            whole = [line for line in data.split(b"\n") if line.strip()]
            lines = {int(json.loads(line)[_NUMBER]): line for line in whole}
            ordered = b"".join(lines[number] + b"\n" for number in sorted(lines))
            if ordered != data:
                write_atomically(self._path, ordered)
        except FileNotFoundError:
            return  # nothing has been answered
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def _take(self, where: str, line: bytes) -> None:
        try:
            prediction = json.loads(line)
            number, answer = prediction[_NUMBER], self._task.form.answer_in(prediction)
            if not isinstance(answer, str):
                raise TypeError("not a text")
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
        self.ranks.pop(number, None)
        if _RANK in prediction:
            self.ranks[number] = rank


def _remove_torn_line(file: BinaryIO) -> None:
    """Remove the last line if it was not written to its end, by a process that has been killed."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 1))
    if end and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


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
        for inner in {**was, **now}:
            if was.get(inner) != now.get(inner):
                return _difference(inner, was, now)
    return f"{name} was {was}, not {now}"


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"{path} cannot be written: {error.strerror or error}")
