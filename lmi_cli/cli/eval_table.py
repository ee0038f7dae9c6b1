"""Tables of ``lmi eval``: metrics by task, with a column for each method."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmi_cli.cli.console import one_line
from lmi_cli.cli.table import rendered, table

if TYPE_CHECKING:
    from lmi_cli.evaluation.files import EvalTask
    from lmi_cli.evaluation.results import Figure, TaskFigures

_NONE = "-"


def results_table(
    tasks: "Sequence[EvalTask]", figures: "Mapping[str, Mapping[str, TaskFigures]]"
) -> str:
    """Means in percent with their standard errors; ``figures`` by method, then by task.

    Behind them stand the differences between the first method and each other one.
    """
    first, *others = figures
    pairs = [f"{first} - {other}" for other in others]
    shown = table("task", "metric", right=("n", *figures, *pairs))
    for task in tasks:
        groups = list(
            dict.fromkeys(g for of_method in figures.values() for g in of_method[task.name])
        )
        for group in groups:
            cells = [of_method[task.name].get(group, {}) for of_method in figures.values()]
            names = list(dict.fromkeys(metric for of_method in cells for metric in of_method))
            for number, metric in enumerate(names):
                row = [of_method.get(metric) for of_method in cells]
                title = f"{task.name}, {group}" if group else task.name
                count = max(figure.count for figure in row if figure is not None)
                shown.add_row(
                    one_line(title) if number == 0 else "",
                    metric.replace("_", " "),
                    f"{count:,}",
                    *map(_percent, row),
                    *(_difference(row[0], other) for other in row[1:]),
                    end_section=number == len(names) - 1 and group == groups[-1],
                )
    return rendered(shown)


def results_rows(
    tasks: "Sequence[EvalTask]", figures: "Mapping[str, Mapping[str, TaskFigures]]"
) -> list[dict[str, object]]:
    """The same means, a row for each task, group, metric and method; shares from 0 to 1."""
    return [
        {
            "task": task.name,
            "group": group or None,
            "method": method,
            "metric": metric,
            "n": figure.count,
            "mean": figure.mean,
            "standard_error": figure.error,
        }
        for task in tasks
        for method, of_method in figures.items()
        for group, of_group in of_method[task.name].items()
        for metric, figure in of_group.items()
    ]


def tasks_table(tasks: "Sequence[EvalTask]", limit: int | None) -> str:
    """What would be asked."""
    from lmi_cli.tasks.evaluate import limited

    right = ("texts", "questions", "metrics", "answer tokens")
    shown = table("task", "form", right=right)
    for task in tasks:
        items = limited(task, limit)
        shown.add_row(
            one_line(task.name),
            task.form.name,
            f"{len({item.subject for item in items}):,}",
            f"{len(items):,}",
            ", ".join(task.settings.metrics) or _NONE,
            str(task.settings.answer_tokens or "as qa"),
        )
    return rendered(shown)


def tasks_json(tasks: "Sequence[EvalTask]", limit: int | None) -> list[dict[str, Any]]:
    """The same as objects."""
    from lmi_cli.tasks.evaluate import limited

    return [
        {
            "task": task.name,
            "form": task.form.name,
            "texts": len({item.subject for item in limited(task, limit)}),
            "questions": len(limited(task, limit)),
            "metrics": list(task.settings.metrics),
            "answer_tokens": task.settings.answer_tokens,
        }
        for task in tasks
    ]


def _difference(one: "Figure | None", other: "Figure | None") -> str:
    if one is None or other is None:
        return _NONE
    difference = one.less(other)
    sign = "+" if difference.mean > 0 else ""
    return sign + _percent(difference)


def _percent(figure: "Figure | None") -> str:
    if figure is None:
        return _NONE
    mean = f"{100 * figure.mean:.1f}"
    return mean if figure.error is None else f"{mean} ± {100 * figure.error:.1f}"
