"""Results of a run: means with standard errors, in the layout of lm-evaluation-harness.

Every metric is a share, from 0 to 1, as there; tables show it times a hundred, as papers do.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi_cli.errors import ResourceError
from lmi_cli.evaluation.files import EvalTask
from lmi_cli.evaluation.metrics.table import scores_of
from lmi_cli.evaluation.predictions import TaskPredictions

RESAMPLED = 1000
"""Times that a sample is drawn again for a standard error."""
_SEED = 1234
_FIRST = 5
_FILTER = "none"
_BY_TASK = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
_VERSION = 1
"""Of how tasks are asked and scored here; to be raised when scores change by it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of a task.

    Attributes:
        mean: From 0 to 1.
        error: Standard error of the mean, by bootstrap; None for a single question.
        values: That of each question.
    """

    mean: float
    error: float | None
    values: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of questions."""
        return len(self.values)

    def less(self, other: "Figure") -> "Figure":
        """How much better it is than that of another method, question by question."""
        return figure_of([a - b for a, b in zip(self.values, other.values, strict=True)])


Figures = dict[str, Figure]
"""Figures by metric."""

TaskFigures = dict[str, Figures]
"""Those of a task by group; the empty name stands for all of its questions."""


def figures_of(task: EvalTask, predictions: TaskPredictions, numbers: Sequence[int]) -> TaskFigures:
    """The metrics of the questions with these numbers."""
    values: dict[str, dict[str, list[float]]] = {"": {}}
    for number in numbers:
        item, answer = task.items[number], predictions.answers[number]
        scores = scores_of(answer, item, task.settings)
        if number in predictions.ranks:
            scores |= _evidence(predictions.ranks[number])
        for group in {"", item.group}:
            of_group = values.setdefault(group, {})
            for name, score in scores.items():
                of_group.setdefault(name, []).append(score)
    return {
        group: {name: figure_of(found) for name, found in of_group.items()}
        for group, of_group in sorted(values.items())
    }


def _evidence(rank: int | None) -> dict[str, float]:
    """Whether the right passage is first, among the first five, and one by its rank."""
    return {
        "evidence_first": float(rank == 1),
        "evidence_five": float(rank is not None and rank <= _FIRST),
        "evidence_mrr": 0.0 if rank is None else 1 / rank,
    }


def figure_of(values: Sequence[float]) -> Figure:
    """The mean of some values, with its standard error by bootstrap (Efron 1979)."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Figure(mean, None, tuple(values))
    draw = random.Random(_SEED)
    means = [sum(draw.choices(values, k=count)) / count for _ in range(RESAMPLED)]
    centre = sum(means) / RESAMPLED
    error = (sum((each - centre) ** 2 for each in means) / (RESAMPLED - 1)) ** 0.5
    return Figure(mean, error, tuple(values))


def differences(figures: Mapping[str, Mapping[str, TaskFigures]]) -> dict[str, dict[str, Any]]:
    """How much better the first method is than each other one, in the layout of ``results``.

    ``figures`` are by method, then by task. Both methods answer the same questions, so the error is
    that of the differences, question by question.
    """
    if len(figures) < 2:
        return {}
    (first, its), *others = figures.items()
    found: dict[str, dict[str, Any]] = {}
    for name, theirs in others:
        rows: dict[str, Any] = {}
        for task, groups in its.items():
            for group, of_group in groups.items():
                both = of_group.keys() & theirs[task].get(group, {}).keys()
                shared = {
                    metric: figure.less(theirs[task][group][metric])
                    for metric, figure in of_group.items()
                    if metric in both
                }
                rows[_alias(task, group)] = _row(shared)
        found[f"{first} - {name}"] = rows
    return found


def _alias(task: str, group: str) -> str:
    return f"{task}/{group}" if group else task


def _row(figures: Figures) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric, figure in figures.items():
        row[f"{metric},{_FILTER}"] = figure.mean
        row[f"{metric}_stderr,{_FILTER}"] = "N/A" if figure.error is None else figure.error
    return row


def results_object(
    tasks: Sequence[EvalTask],
    figures: Mapping[str, TaskFigures],
    asked: Mapping[str, int],
    tokens: Mapping[str, int],
    config: Mapping[str, Any],
    *,
    version: str,
    seconds: float,
) -> dict[str, Any]:
    """The object that lm-evaluation-harness writes as ``results_*.json``.

    Args:
        tasks: The tasks.
        figures: By task.
        asked: Number of questions that were asked, by task.
        tokens: Longest answer in tokens, by task.
        config: What the answers depend on.
        version: That of this program.
        seconds: What this start of the run has taken.
    """
    results, versions, better = {}, {}, {}
    for task in tasks:
        for group, of_group in figures[task.name].items():
            name = _alias(task.name, group)
            results[name] = {"alias": name, **_row(of_group)}
            better[name] = dict.fromkeys(of_group, True)
        versions[task.name] = _VERSION
    return {
        "results": results,
        "configs": {task.name: _config_of(task, tokens[task.name]) for task in tasks},
        "versions": versions,
        "n-shot": dict.fromkeys(versions, 0),
        "higher_is_better": better,
        "n-samples": {
            task.name: {"original": len(task.items), "effective": asked[task.name]}
            for task in tasks
        },
        "config": {**config, "bootstrap_iters": RESAMPLED, "bootstrap_seed": _SEED},
        "lmi_version": version,
        "total_evaluation_time_seconds": seconds,
    }


def with_earlier(results: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Results with those of other tasks that an earlier start of the same run has written.

    Args:
        results: The object of this start.
        path: The file of the earlier one, if there is one; other content is left out.

    Raises:
        ResourceError: The file cannot be read.
    """
    try:
        before = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return dict(results)
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror or error}") from None
    merged = dict(results)
    for part in _BY_TASK:
        old = before.get(part) if isinstance(before, dict) else None
        if isinstance(old, dict):
            kept = {
                name: value
                for name, value in old.items()
                if name.partition("/")[0] not in results["versions"]
            }
            merged[part] = {**kept, **results[part]}
    return merged


def _config_of(task: EvalTask, tokens: int) -> dict[str, Any]:
    settings = task.settings
    return {
        "task": task.name,
        "form": task.form.name,
        "metric_list": [{"metric": name} for name in settings.metrics],
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": tokens},
        "sha256": task.sha256,
    }
