"""Every metric by its name, and the score of an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from lmi_cli.errors import UsageError
from lmi_cli.evaluation.item import EvalItem, TaskSettings
from lmi_cli.evaluation.metrics import chinese, code, labels, numbers, rouge, strings, tokens

Scorer = Callable[[str, EvalItem], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        score: The score of an answer to a question, from 0 to 1.
        library: What it needs to be installed, as it is imported.
    """

    score: Scorer
    library: str | None = None


def _best(function: Callable[[str, str], float], library: str | None = None) -> Metric:
    """A metric of one right answer: that of the best of them."""
    return Metric(
        lambda answer, item: max(function(answer, right) for right in item.answers), library
    )


def _together(function: Callable[[str, Sequence[str]], float]) -> Metric:
    """A metric of all right answers together."""
    return Metric(lambda answer, item: function(answer, item.answers))


def _classified(answer: str, item: EvalItem) -> float:
    return max(labels.classification(answer, right, item.classes) for right in item.answers)


def _matched(answer: str, item: EvalItem) -> float:
    return float(item.pattern is not None and item.pattern.search(answer) is not None)


METRICS: dict[str, Metric] = {
    "qa_f1": _best(tokens.qa_f1),
    "exact_match": _best(tokens.exact_match),
    "contains": _best(tokens.contains),
    "match": Metric(_matched),
    "classification": Metric(_classified),
    "word": _best(labels.word),
    "word_upper": Metric(lambda answer, item: labels.word_upper(answer, item.answers[0])),
    "choice": _together(labels.choice),
    "choice_or_name": _together(labels.choice_or_name),
    "letter": _best(labels.letter),
    "letters": _best(labels.letters),
    "retrieval": _best(numbers.retrieval),
    "retrieval_zh": _best(numbers.retrieval_zh),
    "count": _best(numbers.count),
    "first_integer": _best(numbers.first_integer),
    "first_number": _best(numbers.first_number),
    "last_integer": _best(numbers.last_integer),
    "calculation": _together(numbers.calculation),
    "string_match_all": _together(strings.string_match_all),
    "string_match_part": _together(strings.string_match_part),
    "code_sim": _best(code.code_sim),
    "rouge": _best(rouge.rouge, "rouge"),
    "rouge_1": _best(rouge.rouge_1, "rouge_score"),
    "rouge_2": _best(rouge.rouge_2, "rouge_score"),
    "rouge_l": _best(rouge.rouge_l, "rouge_score"),
    "rouge_l_sum": _best(rouge.rouge_l_sum, "rouge_score"),
    "qa_f1_zh": _best(chinese.qa_f1_zh, "jieba"),
    "char_f1_zh": _best(chinese.char_f1_zh),
    "rouge_zh": _best(chinese.rouge_zh, "jieba"),
}
"""Every metric by its name; one of several right answers counts by the best."""


def scores_of(answer: str, item: EvalItem, settings: TaskSettings) -> dict[str, float]:
    """The scores of an answer, by metric."""
    if settings.first_line:
        answer = answer.lstrip("\n").partition("\n")[0]
    return {name: METRICS[name].score(answer, item) for name in settings.metrics}


def require_libraries(task: str, settings: TaskSettings) -> None:
    """Refuse to begin what could not be scored in the end.

    Raises:
        UsageError: A metric needs a library that is not installed.
    """
    libraries = [METRICS[name].library for name in settings.metrics]
    if "rouge_zh" in settings.metrics:
        libraries.append("rouge")
    for library in libraries:
        if library is not None and find_spec(library) is None:
            raise UsageError(
                f"{task} is scored with {library.replace('_', '-')}, which is not installed",
                hint="pip install 'lmi[eval]'",
            )
