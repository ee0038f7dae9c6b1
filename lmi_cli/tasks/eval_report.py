"""What an evaluation has done, put together from what several processes have."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmi_cli.evaluation.files import EvalTask
from lmi_cli.evaluation.item import EvalItem
from lmi_cli.evaluation.predictions import TaskPredictions
from lmi_cli.tasks.report import Timing


@dataclass(slots=True)
class EvalReport:
    """What one start of a run has done by one method.

    Attributes:
        predictions: Answers by task, those of earlier starts included.
        forms: How many texts were read in each form; see :class:`ReadingReport`.
        answered_from: How many answers have each basis; see :class:`Answer`.
        asked: Number of questions that this start has answered.
        read_tokens: Tokens that it has read.
        generated: Tokens that it has generated.
        timing: Its time and speed; of several processes, their time together and the speed of each.
        processes: Number of processes.
    """

    predictions: dict[str, TaskPredictions]
    forms: Counter[str] = field(default_factory=Counter)
    answered_from: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    read_tokens: int = 0
    generated: int = 0
    timing: Timing = field(default_factory=Timing)
    processes: int = 1
    _own: list[tuple[str, int]] = field(default_factory=list)

    def answered(self, item: EvalItem, answer: str, rank: int | None, *, ranked: bool) -> None:
        """Keep an answer; arguments as for :meth:`TaskPredictions.add`."""
        self.predictions[item.task].add(item, answer, rank, ranked=ranked)
        self._own.append((item.task, item.number))
        self.asked += 1

    def share(self, notes: Iterable[str]) -> dict[str, Any]:
        """What this process has done, for the others."""
        answers = []
        for task, number in self._own:
            kept = self.predictions[task]
            rank, ranked = kept.ranks.get(number), number in kept.ranks
            answers.append([task, number, kept.answers[number], rank, ranked])
        return {
            "answers": answers,
            "forms": dict(self.forms),
            "answered_from": dict(self.answered_from),
            "read_tokens": self.read_tokens,
            "generated": self.generated,
            "prefill_s": self.timing.prefill_s,
            "decode_s": self.timing.decode_s,
            "notes": list(notes),
        }

    def add(self, done: Mapping[str, Any], tasks: Mapping[str, EvalTask], *, keep: bool) -> None:
        """Add what another process has done.

        Args:
            done: What it has shared.
            tasks: The tasks by name.
            keep: Whether to write those of its answers that are not in the files, as where it is on
                another machine.
        """
        for task, number, answer, rank, ranked in done["answers"]:
            kept = self.predictions[task]
            if number not in kept.answers:
                item = tasks[task].items[number]
                kept.add(item, answer, rank, ranked=ranked, write=keep)
        self.forms.update(done["forms"])
        self.answered_from.update(done["answered_from"])
        self.asked += len(done["answers"])
        self.read_tokens += done["read_tokens"]
        self.generated += done["generated"]
        self.timing.add_prefill(self.read_tokens, done["prefill_s"])
        self.timing.add_decode(self.generated, done["decode_s"])
