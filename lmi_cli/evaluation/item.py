"""A question about a text, in whatever form its data set has it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GoldPlace:
    """Where in its document the answer to a question stands; one of the three is set.

    Attributes:
        page: One-based page.
        lines: First and last line, one-based, both included.
        passage: Matches the text of the place, in which runs of white space are single spaces.
    """

    page: int | None = None
    lines: tuple[int, int] | None = None
    passage: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One question.

    Attributes:
        task: Name under which it is scored, and of the file of its predictions.
        group: Part of the task that is scored apart as well; empty for none.
        number: Its place among the questions of the task, from zero.
        where: File and line that it comes from, for messages.
        question: What is asked; empty if the words of the task say it all.
        options: The possible answers, if there are some, one a line behind its letter.
        answers: Right answers.
        pattern: Matches a right answer, if it is defined in this way.
        classes: Names of all classes, where one is to be named.
        documents: Paths of the documents that it is about; none if there is a ``text``.
        text: The text that it is about.
        gold: Where in the documents the answer stands, if that is known.
        fields: What a prompt in given words may contain beside text and question, by name.
        row: What its prediction repeats of the record.
    """

    task: str
    number: int
    where: str
    question: str
    options: str = ""
    answers: tuple[str, ...] = ()
    group: str = ""
    pattern: re.Pattern[str] | None = None
    classes: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    text: str = ""
    gold: GoldPlace | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The question with its options."""
        return f"{self.question}\n{self.options}" if self.options else self.question

    @property
    def subject(self) -> tuple[tuple[str, ...], str]:
        """What it is about; questions about the same are asked after one reading."""
        return self.documents, self.text


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """How the questions of a task are asked and scored.

    Attributes:
        metrics: Names of metrics, the main one first; none if only a published script can score it.
        answer_tokens: Longest answer, in tokens; None is that of ``lmi qa``.
        chat: Whether the prompt is put into the chat template of the model.
        first_line: Whether only the first line of an answer that is not empty counts.
    """

    metrics: tuple[str, ...]
    answer_tokens: int | None = None
    chat: bool = True
    first_line: bool = False
