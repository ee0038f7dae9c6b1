"""The words of prompts: a file of them by task, as LongBench publishes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from string import Formatter

from lmi_cli.errors import UsageError
from lmi_cli.evaluation.item import EvalItem
from lmi_cli.evaluation.row import clean

_TEXT = "context"
_QUESTION = ("input", "question")
_SHAPES = ([_TEXT], [_TEXT, "question"])


@dataclass(frozen=True, slots=True)
class Words:
    """A prompt around a text and a question.

    Attributes:
        before: In front of the text.
        lead: Between the text and the question; all that follows the text if there is none.
        trail: Behind the question.
        asks: Whether the question is part of the prompt.
    """

    before: str
    lead: str
    trail: str = ""
    asks: bool = True


class WordsFile:
    """Prompts by task, with ``{context}``, ``{input}`` and other fields of a record in them.

    ``{question}`` is another name of ``{input}``.

    Args:
        path: A JSON object of texts.

    Attributes:
        sha256: Of the file.

    Raises:
        UsageError: The file cannot be read, or is no such object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            data = path.read_bytes()
            prompts = json.loads(data.decode("utf-8-sig"))
        except OSError as error:
            raise UsageError(f"prompts file {path}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"prompts file {path} is not JSON: {str(error)[:120]}") from None
        texts = isinstance(prompts, dict) and all(isinstance(t, str) for t in prompts.values())
        if not texts:
            raise UsageError(f"prompts file {path} is not an object with a text for each task")
        self._prompts = {task: clean(text) for task, text in prompts.items()}
        self.sha256 = sha256(data).hexdigest()

    def require(self, task: str) -> str:
        """Its prompt for a task.

        Raises:
            UsageError: It has none, or not one with one text and at most one question behind it.
        """
        try:
            prompt = self._prompts[task]
        except KeyError:
            known = ", ".join(list(self._prompts)[:30])
            raise UsageError(
                f"prompts file {self._path} has no prompt for {task}", hint=f"it has {known[:300]}"
            ) from None
        try:
            names = [name for _, name, _, _ in Formatter().parse(prompt) if name is not None]
        except ValueError as error:
            raise UsageError(f"prompts file {self._path}, {task}: {error}") from None
        kinds = ["question" if name in _QUESTION else name for name in names]
        if [kind for kind in kinds if kind in (_TEXT, "question")] not in _SHAPES:
            raise UsageError(
                f"prompts file {self._path}, {task}: a prompt has {{context}} once, and "
                "{input} behind it at most once"
            )
        return prompt


def words_for(prompt: str, item: EvalItem) -> Words:
    """The words of a prompt for a question; other fields than text and question are filled in.

    Raises:
        UsageError: The record does not have a field of the prompt.
    """
    parts, at = ["", "", ""], 0
    for literal, name, _, _ in Formatter().parse(prompt):
        parts[at] += literal
        if name == _TEXT or name in _QUESTION:
            at = 1 if name == _TEXT else 2
        elif name is not None:
            parts[at] += _field(name, item)
    before, lead, trail = parts
    return Words(before, lead, trail, asks=at == 2)


def _field(name: str, item: EvalItem) -> str:
    fields: Mapping[str, str] = item.fields
    if name not in fields:
        known = ", ".join(["context", "input", *fields])
        raise UsageError(
            f"the prompt of {item.task} has {{{name[:40]}}}, which {item.where} does not have",
            hint=f"it has {known}",
        )
    return fields[name]
