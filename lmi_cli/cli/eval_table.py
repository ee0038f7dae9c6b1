"""Tables of ``lmi eval``: metrics by task, with a column for each method."""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmi_cli.cli.console import columns, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from lmi_cli.evaluation.files import EvalTask
    from lmi_cli.evaluation.results import Figure, TaskFigures

_NARROW, _WIDE = 40, 200
_NONE = "-"


def results_table(
    tasks: "Sequence[EvalTask]", figures: "Mapping[str, Mapping[str, TaskFigures]]"
) -> str:
    """Means in percent with their standard errors; ``figures`` by method, then by task.

    Behind them stand the differences between the first method and each other one.
    """
    first, *others = figures
    pairs = [f"{first} - {other}" for other in others]
    table = _table("task", "metric", "n", *figures, *pairs)
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
                table.add_row(
                    one_line(title) if number == 0 else "",
                    metric.replace("_", " "),
                    f"{count:,}",
                    *map(_percent, row),
                    *(_difference(row[0], other) for other in row[1:]),
                    end_section=number == len(names) - 1 and group == groups[-1],
                )
    return _rendered(table)


def tasks_table(tasks: "Sequence[EvalTask]", limit: int | None) -> str:
    """What would be asked."""
    from lmi_cli.tasks.evaluate import limited

    table = _table("task", "form", "texts", "questions", "metrics", "answer tokens")
    for task in tasks:
        items = limited(task, limit)
        table.add_row(
            one_line(task.name),
            task.form.name,
            f"{len({item.subject for item in items}):,}",
            f"{len(items):,}",
            ", ".join(task.settings.metrics) or _NONE,
            str(task.settings.answer_tokens or "as qa"),
        )
    return _rendered(table)


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


def _table(first: str, second: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold")
    table.add_column(second, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _rendered(table: "Table") -> str:
    from rich.console import Console

    width = columns(sys.stdout) or _WIDE
    file = io.StringIO()
    console = Console(
        file=file, width=max(_NARROW, width), color_system=None, markup=False, highlight=False
    )
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
